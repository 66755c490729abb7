"""Soak: thousands of predictions and steps, after which the process takes as much memory as it did in the beginning.

Resident memory is read when garbage has been collected. What is compared, from the first tenth of the work on, is the
highest of three successive readings: networks of three kinds take turns, and each takes its own.
"""

import gc
import json
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

import numpy as np

from .tables import seconds_as_text, table
from .worker import rss

PARTS = ("predictions", "training")
POINTS = 200  # readings: one of each network
TOGETHER = 3  # successive readings that make one measurement: as many as there are kinds of networks
FLAT = 0.02


def predictions(count: int, sizes: int, models: int, seed: int) -> Iterator[float]:
    """Predict `count` maps, in pictures of so many sizes and with so many networks; yields the share that is done.

    Two networks live at a time. Each is asked at many sizes, every third time at a rectangle of its own multiples.
    """
    import octsod
    from octsod.models import Configuration

    rng = np.random.default_rng(seed)
    octsod.set_num_threads(1)
    shapes = [(int(h), int(w)) for h, w in rng.integers(16, 400, (sizes, 2))]
    sides = [16 * k for k in range(1, 26)]
    variants = ("csnet", "extractor", "vanilla")
    previous = None
    for number in range(count):
        if number * models // count != (number - 1) * models // count or number == 0:
            previous = model if number else None  # noqa: F821, F841 (stays alive while the next one begins)
            octsod.manual_seed(seed + number)
            model = octsod.CSNet(Configuration.standard(0.2, variant=variants[number % 3]))
            with octsod.no_grad():  # statistics that fit
                model.train()(octsod.Tensor(rng.standard_normal((2, 3, 32, 32)).astype(np.float32)))
            for name, array in model.state_dict().items():
                if "running_var" in name:
                    array[...] = np.maximum(array, 1.0) * 100  # small outputs: an untrained network's may overflow
        height, width = shapes[number % sizes]
        if number % 3 == 0:
            x = rng.standard_normal((1, 3, 16 * max(1, height // 32), 16 * max(1, width // 32))).astype(np.float32)
            octsod.prediction.infer(model, x)
        else:
            image = np.empty((height, width, 3), np.uint8)
            image[...] = number % 251
            side = sides[number * 7 % len(sides)] if number % 10 == 1 else 16 * (1 + number % 6)
            octsod.predict(image, model, side)
        yield (number + 1) / count


def training(count: int, validations: int, seed: int) -> Iterator[float]:
    """Train for `count` steps with so many validations, checkpoints and plots; yields the share that is done."""
    import queue
    import threading

    import octsod

    from .samples import draw_pictures

    with tempfile.TemporaryDirectory() as root:
        steps = max(count // validations, 1)
        draw_pictures(pathlib.Path(root, "set"), 2 * steps, 32)
        draw_pictures(pathlib.Path(root, "val"), 4, 32)
        settings = octsod.training.resolve({
            "data": f"{root}/set", "val": f"{root}/val", "batch_size": 2, "size": 32, "width": 0.2, "steps": count,
            "epochs": validations + 1, "threads": 1, "seed": seed,
        })  # fmt: skip
        # The training runs in a thread that waits whenever a line of its log is looked at.
        lines: queue.Queue = queue.Queue(1)
        resume = threading.Semaphore(0)
        failure: list[BaseException] = []

        def show(line):
            lines.put(line)
            resume.acquire()

        def work():
            try:
                octsod.training.conduct(settings, pathlib.Path(root, "run"), on_line=show)
            except BaseException as error:
                failure.append(error)
            lines.put(None)

        thread = threading.Thread(target=work)
        thread.start()
        while (line := lines.get()) is not None:
            yield line["step"] / count
            resume.release()
        thread.join()
        if failure:
            raise failure[0]


def measure(work: Iterator[float], points: int = POINTS, minutes: float | None = None) -> list[tuple[float, int]]:
    """(share of the work, resident bytes) at evenly spaced points; less if the minutes are over before."""
    found: list[tuple[float, int]] = []
    end = None if minutes is None else time.monotonic() + 60 * minutes
    for share in work:
        if share * points >= len(found) + 1:
            gc.collect()
            found.append((share, rss()))
            if end is not None and time.monotonic() > end:
                break
    return found


def highest(readings: list[tuple[float, int]]) -> list[tuple[float, int]]:
    """The last share and the most bytes of every `TOGETHER` readings."""
    groups = (readings[k : k + TOGETHER] for k in range(0, len(readings) - TOGETHER + 1, TOGETHER))
    return [(group[-1][0], max(size for _, size in group)) for group in groups]


def verdict(points: list[tuple[float, int]]) -> tuple[float | None, float, float]:
    """From which share of the work on memory is flat, between a tenth and a half, or None; and from there on, or else
    from the tenth, the slope of a line through the measurements, in bytes per whole work, and their spread, as a share.

    Flat: all measurements lie within `FLAT` of each other.
    """
    late = [point for point in points if point[0] >= 0.1]
    starts = [k for k, (share, _) in enumerate(late) if share <= 0.5] or [0]
    spreads = [max(size for _, size in late[k:]) / min(size for _, size in late[k:]) - 1 for k in starts]
    flat = next((k for k, spread in zip(starts, spreads, strict=True) if spread < FLAT), None)
    rest = late[flat or 0 :]
    slope = float(np.polyfit(*zip(*rest, strict=True), 1)[0]) if len(rest) > 1 else 0.0
    return None if flat is None else late[flat][0], slope, spreads[flat or 0]


def part(name: str, counts: dict, seed: int, minutes: float | None) -> None:
    """Do a part of the campaign in this process; print its measurements as JSON."""
    start = time.monotonic()
    if name == "predictions":
        work = predictions(counts["predictions"], counts["sizes"], counts["models"], seed)
    else:
        work = training(counts["steps"], counts["validations"], seed)
    points = measure(work, minutes=minutes)
    print(json.dumps({"points": points, "seconds": time.monotonic() - start}))


def campaign(folder: pathlib.Path, counts: dict, seed: int = 0, minutes: float | None = None) -> tuple[str, int]:
    """All parts, each in a process of its own; returns Markdown and how many were not flat."""
    folder.mkdir(parents=True, exist_ok=True)
    rows, courses, rising = [], [], 0
    for name in PARTS:
        arguments = [name, json.dumps(counts), str(seed), str((minutes or 0) / len(PARTS))]
        command = [sys.executable, str(pathlib.Path(__file__).parent), "soak-part", *arguments]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
        if done.returncode:
            raise RuntimeError(f"{name}: exit code {done.returncode}")
        found = json.loads(done.stdout.splitlines()[-1])
        points = highest(found["points"])
        start, slope, spread = verdict(points)
        rising += start is None
        what = f"{points[-1][0]:.0%} of {counts[name if name == 'predictions' else 'steps']:,}"
        rows.append([name, what, f"{points[-1][1] / 2**20:.0f} MB", "never" if start is None else f"{start:.0%}",
                     f"{spread:.2%}", f"{slope / 2**20:+.2f} MB", seconds_as_text(found["seconds"])])  # fmt: skip
        shown = points[:: max(1, len(points) // 12)]
        courses.append(f"{name}: " + ", ".join(f"{share:.0%} {size / 2**20:.1f}" for share, size in shown) + " (MB)")
    head = ["work", "done", "resident", "flat from", "spread from there", "slope", "time"]
    return "\n".join([f"## Soak, seed {seed}\n", table(head, rows), "", *courses]) + "\n", rising
