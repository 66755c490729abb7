"""`kernels.json`: what each CUDA kernel needs of a GPU, by NVIDIA's compiler, and the traffic of a few small launches.

It has a line for each kernel and dtype. `registers`, and bytes of `shared` memory, `spills` and `stack`, are those on
ARCHITECTURES. `launches`: of those that a step and a prediction of CSNet-x1 make with two pictures of 64x64, the ones
that take most memory; what they move, as the simulator counts it (see `_traffic`), and the share of the warps of each
of GPUS that they fill. A test compares it with what is there; `python -m bench gpu --table` writes it.
"""

import concurrent.futures
import functools
import importlib
import json
import os
import pathlib
import pkgutil
import re
import subprocess

import click

from octsod.models import Configuration
from octsod.testing.cusim import nvrtc
from octsod.testing.cusim.occupancy import GPUS, occupancy

from .counted import Counter
from .recorded import prediction, training_step

TABLE = pathlib.Path(__file__).parent / "kernels.json"
ARCHITECTURES = {"sm_75": GPUS["T4"], "sm_80": GPUS["A100"], "sm_90": GPUS["H200"]}  # a GPU of each architecture
NEEDS = ("registers", "shared", "spills", "stack")  # the compiler's entries, each with a number per architecture
DTYPES = ("float32", "float64")
BATCH, SIZE = 2, 64
FEW = 2  # launches of a kernel


def most_shared(gpu):
    """Bytes of shared memory that a block can have."""
    return gpu.shared - gpu.shared_reserved


# What is there ------------------------------------------------------------------------------------------------------


@functools.cache
def sources():
    """All that is compiled, by name: octsod.kernels.cuda's `Source`s."""
    package = importlib.import_module("octsod.kernels.cuda")
    names = [f"{package.__name__}.{found.name}" for found in pkgutil.iter_modules(package.__path__)]
    values = [value for name in names for value in vars(importlib.import_module(name)).values()]
    return {value.name: value for value in values if isinstance(value, package.launch.Source)}


def compiled(jobs=None):
    """(file, kernel, dtype) -> the compiler's `Resources` on each architecture, for all kernels. jobs: how many are
    compiled at a time."""
    work = [(name, dtype, architecture) for name in sources() for dtype in DTYPES for architecture in ARCHITECTURES]

    def resources(name, dtype, architecture):
        source = sources()[name]
        return nvrtc.resources(source.code, architecture, source.options(dtype))

    found = {}
    with concurrent.futures.ThreadPoolExecutor(jobs or os.cpu_count()) as pool:
        needs = pool.map(resources, *zip(*work, strict=True))
        for (name, dtype, architecture), of_kernels in zip(work, needs, strict=True):
            for kernel, need in of_kernels.items():
                found.setdefault((f"{name}.cu", kernel, dtype), {})[architecture] = need
    return found


def counted():
    """(file, kernel, dtype) -> [(launch, its `Count`)] of small launches of the kernels that CSNet uses."""
    counter, launches, found = Counter(), {}, {}
    for record in (training_step, prediction):
        for launch in record(Configuration.standard(), BATCH, SIZE, most_shared(ARCHITECTURES["sm_80"])).launches:
            launches.setdefault(launch.key, launch)
    for launch in sorted(launches.values(), key=lambda launch: -launch.bytes):
        few = found.setdefault((launch.file, launch.kernel, launch.dtype), [])
        if len(few) < FEW:
            few.append((launch, counter.count(launch)))
    return found


def nvrtc_version():
    """NVRTC's major and minor number, as text."""
    return ".".join(map(str, nvrtc.version()))


def gxx_version():
    """The major number of the simulator's compiler: it optimises before accesses are counted."""
    said = subprocess.run([os.environ.get("CXX") or "g++", "-dumpversion"], capture_output=True, text=True, check=True)
    return re.match(r"\d+", said.stdout)[0]


# The table ----------------------------------------------------------------------------------------------------------


def of_compiler(needs):
    """A kernel's entries that are the compiler's, from its `Resources` on each architecture."""
    return {
        name: [getattr(needs[architecture], name) for architecture in ARCHITECTURES]
        for name in NEEDS
    }


def of_launches(kernel, launches):
    """A kernel's entry of launches. kernel: its other entries; launches: with their counts."""
    needs = list(zip(ARCHITECTURES.values(), kernel["registers"], kernel["shared"], strict=True))
    return [
        {
            "grid": list(launch.grid), "block": list(launch.block), "dynamic": launch.shared,
            "occupancy": [
                round(occupancy(gpu, launch.threads, registers, shared + launch.shared).share, 3)
                for gpu, registers, shared in needs
            ],
            **_traffic(count),
        }
        for launch, count in launches
    ]  # fmt: skip


def _traffic(count):
    """read, write: sectors, how few would do, different bytes. wavefronts: of shared memory, and how few would do.
    divergent: accesses in which only some lanes of a warp take part."""
    return {
        "read": [count.read.sectors, count.read.least, count.read.unique],
        "write": [count.write.sectors, count.write.least, count.write.unique],
        "wavefronts": [count.wavefronts, count.least_wavefronts],
        "divergent": sum(site.partial for site in count.sites),
    }


def table():
    """The table of what is there."""
    needs, launches, kernels = compiled(), counted(), []
    for key in sorted(needs):
        kernel = dict(zip(("file", "kernel", "dtype"), key, strict=True)) | of_compiler(needs[key])
        if key in launches:
            kernel["launches"] = of_launches(kernel, launches[key])
        kernels.append(kernel)
    return {"nvrtc": nvrtc_version(), "g++": gxx_version(), "kernels": kernels}


def text_of(table):
    """The file's contents."""
    *versions, (_, kernels) = table.items()
    head = ", ".join(f"{json.dumps(name)}: {json.dumps(value)}" for name, value in versions)
    return f'{{{head}, "kernels": [\n' + ",\n".join(map(json.dumps, kernels)) + "\n]}\n"


@functools.cache
def committed():
    """The table as it is in the file."""
    return json.loads(TABLE.read_text())


def needs_of(launch):
    """The committed line of a launch's kernel. Raises ClickException if there is none."""
    for kernel in committed()["kernels"]:
        if (kernel["file"], kernel["kernel"], kernel["dtype"]) == (launch.file, launch.kernel, launch.dtype):
            return kernel
    raise click.ClickException(
        f"{TABLE}: `{launch.kernel}` of {launch.file}, {launch.dtype}, is not there; write it anew with --table."
    )


def write():
    """Make the file anew."""
    TABLE.write_text(text_of(table()))
    committed.cache_clear()
