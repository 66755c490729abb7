"""`octsod doctor`: what is installed, what works, and how fast this machine is."""

import contextlib
import json
import math
import os
import platform
import warnings

import click

from .options import device_option

# Distributions, and what octsod needs each one for; of several names, whichever is installed counts.
PACKAGES = {
    ("numpy",): "arrays",
    ("numba",): "compiles the kernels",
    ("llvmlite",): "compiles the kernels",
    ("click",): "command line",
    ("rich",): "progress bars",
    ("pillow",): "pictures",
    ("safetensors",): "weight files",
    ("tomli-w",): "run folders",
    ("cupy-cuda13x", "cupy-cuda12x", "cupy"): "optional, for GPUs",
    ("matplotlib",): "optional, for plots",
    ("onnx",): "optional, for exporting",
}


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")
@device_option(help="What must work besides the CPU; auto: what commands use by default, as OCTSOD_DEVICE says. A GPU, "
                    "the first one unless another is named, is always tried.")  # fmt: skip
@click.pass_context
def doctor(ctx, as_json, device):
    """Show what is installed, what works, and how fast this machine is.

    Exits with 0 if the CPU backend works, and the device that --device names or that commands use by default, else
    with 1.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the report covers what they would say
        cpu, default = _cpu(), _default()
        asked = default["device"] if device == "auto" else device
        wanted = asked is not None and asked.startswith("cuda")
        cuda = _cuda(asked if wanted else "cuda")
        works = cpu["works"]
        report = {
            "versions": _versions(),
            "backends": {"cpu": cpu, "cuda": cuda},
            "default": default,
            "cache": _cache() if works else None,
            "machine": _machine(works),
            "speed": _speed(cuda["device"]) if works else None,
        }
    if as_json:
        click.echo(json.dumps(report))
    else:
        sections = [[title, *(f"  {name:<12}  {text}" for name, text in rows)] for title, rows in _sections(report)]
        click.echo("\n\n".join("\n".join(lines) for lines in sections))
    if not works or asked is None or (wanted and not cuda["works"]):
        ctx.exit(1)


def _versions():
    """Package -> version, or None if it is not installed."""
    from importlib.metadata import PackageNotFoundError, version

    import octsod

    versions = {"octsod": octsod.__version__, "python": platform.python_version()}
    for names in PACKAGES:
        versions[names[-1]] = None
        for name in names:
            try:
                versions[names[-1]] = version(name)
                break
            except PackageNotFoundError:
                pass
    return versions


def _cpu():
    """Whether a kernel compiles, runs and agrees with the reference."""
    try:
        agrees = _agrees("cpu")
        detail = "a kernel was compiled or loaded, and agrees with the reference"
        return {"works": agrees, "detail": detail if agrees else _DISAGREES}
    except Exception as error:  # this command exists to report whatever is wrong with the installation
        return {"works": False, "detail": f"{type(error).__name__}: {error}"}


def _cuda(name):
    """Likewise for a GPU; device: its name, or None if it does not work."""
    from ..errors import OctsodError

    try:
        from ..backend import get_device

        device = get_device(name)
        agrees = _agrees(device.name)
        facts = f"{device.title}, {device.memory() / 1e9:.1f} GB free"
        detail = f"{facts}; kernels were compiled or loaded, and agree with the reference"
        works = {"works": agrees, "detail": detail if agrees else f"{facts}; {_DISAGREES}"}
        return {**works, "device": device.name if agrees else None}
    except OctsodError as error:
        return {"works": False, "detail": str(error).rstrip("."), "device": None}
    except Exception as error:
        return {"works": False, "detail": f"{type(error).__name__}: {error}", "device": None}


def _default():
    """The device that commands use if --device does not say which, and why; or None, and what they say instead."""
    from ..backend import chosen_device
    from ..errors import OctsodError

    try:
        device = chosen_device("auto").name
    except OctsodError as error:
        return {"device": None, "detail": str(error)}
    chosen = os.environ.get("OCTSOD_DEVICE", "").strip() not in ("", "auto")
    return {"device": device, "detail": "as OCTSOD_DEVICE says" if chosen else "OCTSOD_DEVICE changes it"}


_DISAGREES = "a compiled kernel gives other numbers than the reference"


def _agrees(name):
    """Whether a kernel of this device agrees with the reference."""
    import numpy as np

    from ..backend import get_device

    x = np.random.default_rng(0).standard_normal((2, 3, 5, 7)).astype(np.float32)
    results = []
    for device in map(get_device, ("reference", name)):
        out = device.empty((2, 3, 9, 4), "float32")
        device.kernels.upsample_bilinear(device.put(x), out)
        results.append(device.get(out))
    return bool(np.abs(results[0] - results[1]).max() < 1e-5)


def _cache():
    """Where compiled kernels are kept, and how much they take up; other versions of octsod keep theirs next to it."""
    from ..kernels.cpu.cache import first_problem, is_writable
    from ..kernels.cpu.cache_folder import cache_folder
    from ..places import cache_root

    folder, _ = cache_folder()
    facts = {"folder": None if folder is None else str(folder), "problem": first_problem()}
    facts["writable"] = folder is not None and is_writable(folder)
    facts["files"], facts["bytes"] = _contents(folder)
    roots = {root for root in (cache_root(), folder and folder.parent) if root}
    others = []
    for root in roots:
        with contextlib.suppress(OSError):  # such as a name that is too long
            others += [path for path in root.glob("kernels-*") if path != folder]
    return {**facts, "other_folders": len(others), "other_bytes": sum(_contents(path)[1] for path in others)}


def _contents(folder):
    """The number of files in a folder, which may be None, and of their bytes."""
    sizes = []
    for path in folder.rglob("*") if folder else ():
        with contextlib.suppress(OSError):  # a process that is compiling may rename files meanwhile
            if path.is_file():
                sizes.append(path.stat().st_size)
    return len(sizes), sum(sizes)


def _machine(works):
    from ..profiling.machine import processor
    from ..threads import available_cpus, cpu_quota

    quota = cpu_quota()
    facts = {
        "platform": platform.platform(), "processor": processor(), "cores": os.cpu_count(),
        "available_cores": available_cpus(), "cpu_quota": None if math.isinf(quota) else quota,
    }  # fmt: skip
    if works:
        import octsod

        from ..kernels.cpu.simd import VECTOR_BYTES

        facts |= {"threads": octsod.get_num_threads(), "vector_bits": 8 * VECTOR_BYTES}
    return facts


def _speed(gpu):
    """What this machine does per second, on one thread and on all, and how long a network takes for a picture. gpu: the
    name of one that works, or None."""
    import octsod

    from ..profiling.roofs import copy_rate, multiply_add_rate

    threads = octsod.get_num_threads()
    speed = {"copy_gb_s": {}, "fma_gflop_s": {}}
    try:
        for count in sorted({1, threads}):
            octsod.set_num_threads(count)
            speed["copy_gb_s"][count] = round(copy_rate() / 1e9, 1)
            speed["fma_gflop_s"][count] = round(multiply_add_rate() / 1e9, 1)
    finally:
        octsod.set_num_threads(threads)
    speed["csnet_x1_ms"] = round(1000 * _network("cpu"), 1) if _is_warm() else None
    speed["gpu_csnet_x1_ms"] = None if gpu is None else round(1000 * _network(gpu), 2)
    return speed


def _network(device):
    """Seconds that CSNet x1 takes for a picture of 224x224, which comes from the host and returns there."""
    import numpy as np

    import octsod

    from ..inference.prediction import infer
    from ..profiling.roofs import shortest

    model, x = octsod.csnet().to(device), np.zeros((1, 3, 224, 224), np.float32)
    for _ in range(3):  # the second time, a GPU captures it
        infer(model, x)
    return shortest(lambda: infer(model, x))


def _is_warm():
    """Whether a network has run before with these kernels; compiling them all takes a minute."""
    from ..kernels.cpu import network
    from ..kernels.cpu.compile import is_compiled

    return is_compiled(network._pictures)


def _sections(report):
    """The report for people: (title, rows of name and text)."""
    uses = {names[-1]: use for names, use in PACKAGES.items()}
    default = report["default"]
    yield "Installed", [
        (name, f"{version or 'not installed':<14}  {uses.get(name, '')}".rstrip())
        for name, version in report["versions"].items()
    ]
    yield "Backends", [
        (name, f"{'works' if backend['works'] else 'does not work'}: {backend['detail']}")
        for name, backend in report["backends"].items()
    ] + [("default", f"{default['device']} ({default['detail']})" if default["device"] else default["detail"])]
    cache, machine, speed = report["cache"], report["machine"], report["speed"]
    if cache:
        writable = "" if cache["writable"] else "   not writable: kernels that it lacks are compiled in every process"
        rows = [("problem", cache["problem"])] if cache["problem"] else []
        rows += [
            ("folder", (cache["folder"] or "none") + writable),
            ("contents", f"{cache['files']} files, {cache['bytes'] / 1e6:.1f} MB"),
        ]
        if cache["other_folders"]:
            rows.append(("beside it", f"{cache['other_folders']} folders of other versions or processors, "
                                      f"{cache['other_bytes'] / 1e6:.1f} MB, which may be deleted"))  # fmt: skip
        yield "Kernel cache", rows
    rows = [("system", machine["platform"]), ("processor", machine["processor"]), ("cores", _cores(machine))]
    if speed:
        rows.append(("threads", f"{machine['threads']} in use (OCTSOD_THREADS changes it)"))
        rows.append(("vectors", f"{machine['vector_bits']} bits"))
    yield "Machine", rows
    if speed:
        network = speed["csnet_x1_ms"]
        yield "Speed", [
            ("copying", _per_threads(speed["copy_gb_s"], "GB/s")),
            ("arithmetic", _per_threads(speed["fma_gflop_s"], "GFLOP/s")),
            ("CSNet x1", "not measured: its kernels are not compiled yet" if network is None
             else f"{network} ms for one picture of 224x224"),
            *([("on the GPU", f"{speed['gpu_csnet_x1_ms']} ms, copies to it and back among them")]
              if speed["gpu_csnet_x1_ms"] else []),
        ]  # fmt: skip


def _cores(machine):
    """How many processors there are, and how many this process may use."""
    cores, available, quota = machine["cores"], machine["available_cores"], machine["cpu_quota"]
    granted = "" if quota is None else f" (its control group grants the time of {quota:g})"
    return f"{cores}, of which this process may use {available}{granted}" if granted or available != cores else cores


def _per_threads(values, unit):
    return ", ".join(f"{value} {unit} on {count} thread{'s' * (count > 1)}" for count, value in values.items())
