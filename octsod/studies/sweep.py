"""A training per strength of decay, each pruned and scored: performance against complexity (paper, figure 13).

    sweep = Sweep("sweeps/first", "weight_decay", [0.002, 0.005, 0.01], given={"data": "DUTS-TR", "val": "ECSSD"})
    for point in sweep.left():
        sweep.run(point)

`sweep.rows` then holds the parameters, MACs and scores of each; `figures.sweep` draws them.
"""

import json
import math
import os
import pathlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from .. import prune
from ..errors import FileError
from ..files import parse_json, read_file, write_atomically
from ..models import save
from ..prune.counts import complexity
from ..training.checkpoints import CHECKPOINT, Checkpoint, changes, read_checkpoint
from ..training.logs import finite
from ..training.pictures import Data, open_data
from ..training.session import Session, resolve, task_for
from ..training.settings import SettingsError, SetupError, sizes
from ..training.tasks import Stopped

VARIED = ("weight_decay", "decay_strength")
MOST_BYTES = 1 << 26  # of results.json


class Point(NamedTuple):
    """A training of a sweep. name: of its run folder. decay: of the scales. value: of the setting being varied."""

    name: str
    decay: str
    value: float


class Sweep:
    """A folder of runs that differ only in their decay, and results.json, which is rewritten after each point.

    varied: "weight_decay", lambda of equation 1, which with standard decay applies to the scales, too; or
    "decay_strength", lambda_d of equation 3, of dynamic decay. values: of that setting. decays: "dynamic", "standard";
    each value is tried with each. given, base, finetune: all other settings, as for `training.resolve`.
    threshold: of gamma, by which networks are pruned after training; by default the paper's, or that of the settings if
    these learn channels. skip_broken, on_progress: as for `training.open_data`.

    points: all points that the sweep will have. rows: of those that are done, also by an earlier sweep in this folder:
    dicts of run, decay, lambda, parameters, macs (at 224x224), max_f, mae and settings. facts: what results.json holds.
    data: the pictures, see `training.open_data`.
    Raises SettingsError if settings conflict, FileError if results.json is damaged or from other settings, SetupError
    if the folder is not a sweep's.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        varied: str,
        values: Iterable[float],
        decays: Iterable[str] = ("dynamic",),
        given: Mapping[str, Any] | None = None,
        base: Mapping[str, Any] | None = None,
        finetune: bool = False,
        threshold: float | None = None,
        skip_broken: bool = False,
        on_progress: Callable[[int, int], None] = lambda done, total: None,
    ):
        if varied not in VARIED:
            raise SettingsError(f"is {varied!r}; expected {' or '.join(VARIED)}.", "varied")
        self.varied, self._settings = varied, (dict(given or {}), base, finetune)
        values, decays = [float(value) for value in values], list(decays)
        self.points = [Point(f"{decay}-{value:.12g}", decay, value) for value in values for decay in decays]
        if not self.points:
            raise SettingsError("is empty; expected at least one number.", "values")
        self._before: dict[str, Any] | None = None
        first, *_ = map(self.settings, self.points)  # check them all
        self._before = first  # `init` has been looked for: the folder that is made next may have its name
        if first["task"] != "saliency":
            raise SettingsError("a sweep trains for saliency only.", "task")
        if first.get("variant") == "vanilla":
            raise SettingsError("a sweep prunes its networks, which a vanilla one does not allow.", "variant")
        if "learn_channels" in first and threshold is not None:
            raise SettingsError("`learn_channels` prunes by train's own `threshold`; leave the sweep's out.")
        self.threshold = first.get("threshold", threshold or prune.THRESHOLD)
        self.data = open_data(first, skip_broken=skip_broken, on_progress=on_progress)
        self.folder = pathlib.Path(folder)
        self.path = self.folder / "results.json"
        pictures = [len(part) for part in (self.data.training, self.data.held_out)]
        self.facts = {"varied": varied, "threshold": self.threshold, "pictures": pictures, "points": []}
        self._open()
        for row in self.rows:
            self._require_same(row["settings"], self.settings(Point(row["run"], row["decay"], row["lambda"])))

    @property
    def rows(self) -> list[dict[str, Any]]:
        return self.facts["points"]

    def left(self) -> list[Point]:
        """The points that are not done."""
        done = {row["run"] for row in self.rows}
        return [point for point in self.points if point.name not in done]

    def settings(self, point: Point) -> dict[str, Any]:
        """All settings of the training of a point."""
        given, base, finetune = self._settings
        names = {self.varied, "decay_strength"} if point.decay == "standard" else {self.varied}
        given = {**given, "decay": point.decay, **dict.fromkeys(names, point.value)}
        return resolve(given, base, finetune, self._before)

    def run(
        self,
        point: Point,
        conduct: Callable[[dict, pathlib.Path, Data, Checkpoint | None], bool] | None = None,
        stop: Callable[[], bool] = lambda: False,
    ) -> dict[str, Any] | None:
        """Train the network of a point, or continue its training, then prune and score it.

        Returns its row, which is then in results.json; None if `stop()` prevented that; it can be continued later.
        conduct: trains, given settings, run folder, data and checkpoint (None for a new run), and returns whether the
        training is complete. Raises DivergenceError if training diverges.
        """
        settings, folder = self.settings(point), self.folder / point.name
        checkpoint = read_checkpoint(folder) if (folder / CHECKPOINT).exists() else None
        if checkpoint is not None:
            self._require_same(checkpoint.settings, settings)
        if checkpoint is None or not checkpoint.finished():
            if conduct is None:
                with Session(settings, folder, self.data, checkpoint) as session:
                    done = session.conduct(stop=stop)
            else:
                done = conduct(settings, folder, self.data, checkpoint)
            if not done:
                return None
            checkpoint = read_checkpoint(folder)
        model = checkpoint.model()
        model.size, _ = sizes(settings["size"])[-1]
        if "learn_channels" not in settings:
            model = prune.apply(model, prune.plan(model, threshold=self.threshold))
        try:
            scores, _ = task_for(settings).validate(model, self.data.held_out, model.size, stop)
        except Stopped:
            return None
        save(model, folder / "weights" / "pruned.safetensors")
        cost = complexity(model)
        row = {"run": point.name, "decay": point.decay, "lambda": point.value, "parameters": cost.parameters,
               "macs": cost.macs, **scores, "settings": settings}  # fmt: skip
        if self.path.exists():  # another process may have done other points meanwhile
            self.facts["points"] = [other for other in self._read() if other["run"] != point.name]
        self.rows.append(row)
        self.rows.sort(key=lambda row: (row["decay"], row["lambda"]))
        self._write()
        return row

    def _open(self):
        if self.path.exists():
            self.facts["points"] = self._read()
        elif self.folder.exists() and any(not path.name.endswith(".part") for path in self.folder.iterdir()):
            raise SetupError(f"{self.folder}: exists already and is no sweep; name another folder.")
        else:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._write()

    def _read(self):
        try:
            facts = parse_json(read_file(self.path, MOST_BYTES))
            rows = facts.pop("points")
            for row in rows:
                row["run"], row["decay"], row["settings"].keys()
                for name in ("lambda", "parameters", "macs", "max_f", "mae"):
                    row[name] = math.nan if row[name] is None else row[name]
                    float(row[name])
        except FileError:
            raise
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise FileError(f"{self.path}: is damaged, or none of octsod's.") from error
        if rows:  # without any, nothing done so far depends on the sweep's own settings
            self._require_same(facts, {name: fact for name, fact in self.facts.items() if name != "points"})
        return rows

    def _require_same(self, before, after):
        """Raise FileError if settings differ in more than the number of threads."""
        if changed := changes(before, after, ("threads",)):
            raise FileError(f"{self.folder}: was started with {changed}; other settings need another folder.")

    def _write(self):
        write_atomically(self.path, (json.dumps(finite(self.facts), indent=1) + "\n").encode())
