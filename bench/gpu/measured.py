"""`python -m bench gpu`: everything on a GPU, within BUDGET seconds.

First, all implementations start at once, each in a process of its own, and make a first step; those of torch.compile
take minutes. Meanwhile launches are counted on the processor. Whoever is ready in time and agrees with ours is then
timed, in turns, with nothing else running. What a process holds of the GPU's memory shows when it ends.
"""

import concurrent.futures
import functools
import threading
import time
from dataclasses import dataclass

import click
import numpy as np

import octsod
from octsod import backend
from octsod.errors import OctsodError
from octsod.models import Configuration
from octsod.testing import cusim
from octsod.testing.cusim.occupancy import GPUS

from .. import implementations as on_processor
from ..agreement import DisagreementError, agreement
from ..children import PAUSE, Child, ChildError, interleaved
from ..command import say
from ..implementations import OURS, Implementation
from ..network import Turn, Work
from ..problems import SIZE, configuration, problem, trained
from ..rows import rounded, row
from . import kernels, networks, recorded
from .counted import Counter
from .predicted import costs, predicted, with_counts
from .resources import most_shared

BUDGET = 290.0  # seconds for everything
COMPILING = 200.0  # until then, torch.compile may compile
ROUNDS, KERNEL_ROUNDS = 5, 2
PROCESSOR = "octsod on the processor"  # only compared with
WARM = Turn(2, 0)  # CUDA graphs are captured in the second or third step


@dataclass(frozen=True)
class Contest:
    """A case. work: ours and PyTorch's. repeats: how many steps are timed as one. reference: ours on the processor, to
    compare with, and how far its results may be from those on the GPU, as in `Work`; None for no comparison."""

    work: Work
    repeats: int
    reference: tuple[Implementation, tuple[float, float]] | None

    @property
    def case(self):
        return self.work.problem.case


def contests():
    """A training step, and predictions of 1 picture and of 64."""
    ready = Turn(1, 1)
    train = networks.implementations(networks.octsod_training, networks.torch_training, True)
    given = problem("gpu/train/x1/b24", configuration("x1"), 24, straight=True)
    cpu = Implementation(on_processor.octsod_training, ("numpy", "numba"))
    found = [Contest(Work(given, train, (2e-2, 0.5), ready), 5, (cpu, (2e-2, 0.5)))]
    cpu = (Implementation(on_processor.octsod_inference, ("numpy", "numba")), (1e-4, 1e-4))
    for batch, repeats, reference in ((1, 20, cpu), (64, 5, None)):  # it compiles for a minute
        infer = networks.implementations(networks.octsod_inference, networks.torch_inference, batch == 1)
        given = trained(f"gpu/infer/x1/b{batch}", "csnet-x1", batch)  # random weights amplify errors
        found.append(Contest(Work(given, infer, (1e-3, 1e-3), ready), repeats, reference))
    return found


# Children -----------------------------------------------------------------------------------------------------------


class Children:
    """Children by (case, name), which start in the background."""

    def __init__(self, most):
        self._pool = concurrent.futures.ThreadPoolExecutor(most)
        self._begun, self._started, self._closed = {}, {}, set()
        self._lock = threading.Lock()

    def start(self, key, warm, build, *arguments):
        """Begin with one; it makes its first step, and then a turn."""
        self._begun[key] = self._pool.submit(self._begin, key, warm, build, *arguments)

    def _begin(self, key, warm, build, *arguments):
        child = Child(build, *arguments)
        with self._lock:
            self._started[key] = child
            unwanted = key in self._closed
        if unwanted:
            self.close(key)
        results = child.first_results()
        if warm is not None:
            child.turn(warm.warm, warm.timed)
        return child, results

    def wait(self, key, until):
        """(child, results of its first step). Raises ChildError if it fails, or is not ready at the time `until`."""
        try:
            return self._begun[key].result(max(until - time.monotonic(), 0.1))
        except concurrent.futures.TimeoutError:
            self.close(key)
            raise ChildError("it was not ready in time") from None

    def close(self, key):
        """End a child, now or as soon as it has been built."""
        with self._lock:
            self._closed.add(key)
            child = self._started.pop(key, None)
        if child is not None:
            child.close()

    def close_all(self):
        for key in self._begun:
            self.close(key)
        self._pool.shutdown(wait=False, cancel_futures=True)


# The measurement ----------------------------------------------------------------------------------------------------


def measured(device, free_memory, keep, budget=BUDGET, compiling=COMPILING, cases=None, singles=None):
    """(rows, failures).

    device: octsod's. free_memory: a function that returns how many bytes of the GPU nobody holds. keep: called with all
    rows so far, whenever there are more. cases: `Contest`s; singles: by name, what samples single kernels: (build,
    arguments).
    """
    start = time.monotonic()
    cases = contests() if cases is None else cases
    singles = _singles() if singles is None else singles
    pool = Children(sum(len(c.work.implementations) + 1 for c in cases) + len(singles))
    failures, rows = [], []
    try:
        for contest in cases:
            _start(pool, contest)
        for name, (build, *arguments) in singles.items():
            pool.start(("kernels", name), None, build, *arguments)
        estimates = _estimates(device, failures)
        ready = {contest.case: _ready(pool, contest, start + compiling, failures) for contest in cases}
        rows += _of_kernels(pool, singles, device, estimates, start + budget - 60, failures)
        keep(rows)
        copied = next((r["gb_s"] for r in rows if r["case"] == "gpu/copy"), None)
        for contest in cases:
            rows += _timed(pool, contest, ready[contest.case], device, copied, free_memory, start + budget, failures)
            keep(rows)
    finally:
        pool.close_all()
    return rows, failures


def _singles():
    builds = {OURS: (kernels.octsod_kernels, 24, SIZE)}
    for name in ("torch", "torch-channels-last"):
        builds[name] = (kernels.torch_kernels, 24, networks.FORMATS[name])
    return builds


def _start(pool, contest):
    problem_, case = contest.work.problem, contest.case
    for name, implementation in contest.work.implementations.items():
        pool.start((case, name), WARM, implementation.build, problem_, contest.repeats)
    if contest.reference is not None:
        pool.start((case, PROCESSOR), None, contest.reference[0].build, problem_, octsod.get_num_threads())


def _ready(pool, contest, until, failures):
    """name -> difference from ours, of all that are ready and agree with ours; ours first."""
    case, errors = contest.case, {}
    say(f"{case}: first steps of {', '.join(contest.work.implementations)}")
    others = [name for name in contest.work.implementations if name != OURS]
    for name in (OURS, *([PROCESSOR] if contest.reference else []), *others):
        try:
            _, results = pool.wait((case, name), until)
            if name == OURS:
                expected = results
            allowed = contest.reference[1] if name == PROCESSOR else contest.work.tolerances
            errors[name] = agreement(results, expected, *allowed)
        except (ChildError, DisagreementError) as error:
            failures.append(f"{case}: {name}: {error}.")
            pool.close((case, name))
            if name == OURS:
                return {}
    pool.close((case, PROCESSOR))
    return errors


def _timed(pool, contest, errors, device, copied, free_memory, until, failures):
    """The rows of a case."""
    case, turn, repeats = contest.case, contest.work.turn, contest.repeats
    names = [name for name in errors if name != PROCESSOR]
    say(f"{case}: {ROUNDS} rounds of {', '.join(names)}")
    seconds = {name: [] for name in names}
    for number, name in enumerate(interleaved(names, ROUNDS)):
        if name in seconds and (number < len(names) or time.monotonic() < until):
            time.sleep(PAUSE)
            try:
                child, _ = pool.wait((case, name), until)
                seconds[name] += [s / repeats for s in child.turn(turn.warm, turn.timed)]
            except ChildError as error:
                del seconds[name]
                failures.append(f"{case}: {name}: {error}.")
    rows = []
    for name, samples in seconds.items():
        held = free_memory()
        pool.close((case, name))
        more = {"memory_mb": rounded((free_memory() - held) / 1e6), "difference": float(f"{errors[name]:.2g}")}
        if name == OURS:
            more["processor_difference"] = errors.get(PROCESSOR) and float(f"{errors[PROCESSOR]:.2g}")
            if "/train/" in case and copied:
                bytes_ = step_bytes(contest.work.problem.batch)
                more |= {"gb_s": rounded(bytes_ / np.median(samples) / 1e9)}
                more["copy_share"] = rounded(more["gb_s"] / copied)
        rows.append(_row(case, name, samples, device, contest.work.implementations[name].packages, **more))
    return rows


def _row(case, name, samples, device, packages, **more):
    return row(case, name, 0, samples, packages, gpu=device.title, **more)


@functools.cache
def step_bytes(batch):
    """What the ops of a training step cost, layer by layer."""
    recording = recorded.training_step(Configuration.standard(), batch, SIZE, most_shared(GPUS["H200"]))
    return sum(costs(recording).values())


# Single kernels -----------------------------------------------------------------------------------------------------


def _estimates(device, failures):
    """CUDA kernel -> (predicted seconds in a step at batch 24, bytes that it moves). Empty, with a sentence, where it
    cannot be known."""
    gpu = next((gpu for name, gpu in GPUS.items() if name in device.title), None)
    reason = cusim.unavailable() or ("" if gpu else f"{device.title} is none of {', '.join(GPUS)}.")
    if reason:
        failures.append(f"gpu/kernel: nothing is predicted: {reason}")
        return {}
    say("counting the launches of a training step")
    try:
        return _estimated(gpu)
    except click.ClickException as error:
        failures.append(f"gpu/kernel: nothing is predicted: {error.message}")
        return {}


def _estimated(gpu):
    one, many = (recorded.training_step(Configuration.standard(), n, SIZE, most_shared(gpu)) for n in (1, 24))
    found = {}
    for launch, count in with_counts(one.order, many.order, Counter()):
        seconds, moved = found.get(launch.kernel, (0, 0))
        found[launch.kernel] = seconds + predicted(gpu, launch, count).seconds, moved + count.unique_bytes
    return found


def _of_kernels(pool, singles, device, estimates, until, failures):
    """Rows of single kernels, ours and PyTorch's."""
    samples = {name: {} for name in singles}
    for name in interleaved(list(singles), KERNEL_ROUNDS):
        if name not in samples:
            continue
        say(f"gpu/kernel, gpu/op: {name}")
        try:
            child, _ = pool.wait(("kernels", name), until)
            # The very first step was made while others were busy.
            for title, seconds in child.first_results().items():
                samples[name].setdefault(title, []).extend(seconds)
        except ChildError as error:
            failures.append(f"gpu/kernel: {name}: {error}.")
            del samples[name]
    for name in singles:
        pool.close(("kernels", name))
    return rows_of_kernels(samples, device, estimates)


def rows_of_kernels(samples, device, estimates):
    """samples: implementation -> title of kernels.py -> seconds."""
    rows, launches = [], {}
    ours = samples.get(OURS, {})
    if "copy" in ours:
        rate = rounded(2 * kernels.COPIED / np.median(ours["copy"]) / 1e9)
        rows.append(_row("gpu/copy", OURS, ours["copy"], device, networks.OURS_PACKAGES, gb_s=rate))
    for title, seconds in ours.items():
        if title.startswith("launch/"):
            _, kernel, count, _ = title.split("/")
            launches.setdefault(kernel, []).append((int(count), np.array(seconds)))
    for kernel, own in launches.items():
        whole = sum(count * seconds for count, seconds in own)  # sample by sample
        more = {"launches": sum(count for count, _ in own)}
        if kernel in estimates:
            expected, moved = estimates[kernel]
            more |= {"predicted_ms": rounded(1e3 * expected), "gb_s": rounded(moved / np.median(whole) / 1e9)}
        rows.append(_row(f"gpu/kernel/{kernel}", OURS, whole, device, networks.OURS_PACKAGES, **more))
    rows.sort(key=lambda r: -r["median_ms"] if r["case"].startswith("gpu/kernel/") else -np.inf)
    for title in dict.fromkeys(title for of in samples.values() for title in of if title.startswith("op/")):
        for name, of in samples.items():
            if title in of:
                packages = networks.OURS_PACKAGES if name == OURS else networks.TORCH
                rows.append(_row(f"gpu/{title}", name, of[title], device, packages))
    return rows


# The device ---------------------------------------------------------------------------------------------------------


def found():
    """octsod's device, and a function that returns how many bytes of its memory nobody holds. Raises ClickException,
    which says what is missing."""
    try:
        device = backend.get_device("cuda")
    except OctsodError as error:
        raise click.ClickException(f"{error} What can be said without a GPU, --predict says.") from error
    import cupy

    return device, lambda: cupy.cuda.runtime.memGetInfo()[0]
