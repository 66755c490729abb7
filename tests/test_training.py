"""A training follows the recipe, goes on bit by bit where it was stopped, and keeps what is good when it fails."""

import errno
import json
import os
import threading

import numpy as np
import pytest
from test_data import Ramp

import octsod
from octsod import nn
from octsod.data import Loader, Subset
from octsod.errors import FileError
from octsod.files import write_atomically
from octsod.training import DivergenceError, Pruning, Recipe, ScaleDecay, Validated, runs, train
from octsod.training.diagnosis import first_nonfinite

SETTINGS = {"lr": 1e-3, "steps": 7}
PICTURES = (["0", "1", "2", "3", "4", "5"], ["1", "4"])
HELD_OUT = Subset(Ramp(), [1, 4])


def small_model(seed=0):
    octsod.manual_seed(seed)
    return octsod.csnet(0.2)


def small_trainer(total=7, schedule="cosine"):
    return Recipe(lr=1e-3, schedule=schedule).trainer(small_model(), total=total)


def loader():
    """Three batches per epoch, augmented."""
    return Loader(Ramp(), 2, 32, seed=3)


def start(folder, total=7):
    return small_trainer(total), runs.Run.create(folder, SETTINGS, PICTURES)


def go_on(folder, total=7):
    checkpoint = runs.read_checkpoint(folder)
    trainer = Recipe(lr=1e-3, schedule="cosine").trainer(checkpoint.model(), total=total)
    checkpoint.restore(trainer)
    return trainer, runs.Run.resume(folder, SETTINGS, PICTURES, checkpoint)


def log_of(folder):
    """The log's lines without what depends on the clock."""
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in ("img_s", "data_wait_ms")} for line in lines]


def contents(folder):
    """Path -> bytes of all files but the log, whose lines come before their checkpoint."""
    return {p: p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file() and p.name != "log.jsonl"}


class Stop:
    """Asks for a stop at the `count`-th question."""

    def __init__(self, count):
        self.left = count

    def __call__(self):
        self.left -= 1
        return self.left <= 0


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """The folder of a run of seven steps that nothing interrupted."""
    folder = tmp_path_factory.mktemp("straight")
    trainer, run = start(folder)
    with run:
        assert train(trainer, loader(), run, HELD_OUT, save_every=2)
    return folder


def assert_same_run(folder, straight):
    ours, theirs = runs.read_checkpoint(folder), runs.read_checkpoint(straight)
    assert ours.steps == theirs.steps == 7 and ours.finished() and ours.best == theirs.best
    assert ours.state.keys() == theirs.state.keys()
    for name, array in theirs.state.items():
        np.testing.assert_array_equal(ours.state[name], array, err_msg=name)
    assert log_of(folder) == log_of(straight)
    for name in ("last", "best"):
        ours, theirs = (octsod.load(root / f"weights/{name}.safetensors").state_dict() for root in (folder, straight))
        assert all((ours[entry] == array).all() for entry, array in theirs.items())


def test_trainer_follows_the_recipe():
    """One step equals the formulas of the recipe written out."""
    from octsod import functional as f
    from octsod.optim import Adam, DynamicWeightDecay, parameter_groups

    (batch,) = Loader(Ramp(), 6, 32).epoch(0)
    x, y = map(octsod.Tensor, batch)
    trainer, model = Recipe().trainer(small_model()), small_model()
    optimizer = Adam(parameter_groups(model, 5e-3), 1e-4, (0.9, 0.99))
    loss = f.binary_cross_entropy_with_logits(model(x), y)
    loss.backward()
    penalty = DynamicWeightDecay(model, 3.0).apply()
    optimizer.step()
    assert trainer.step(*batch) == (1, loss.item(), {"penalty": float(penalty)}, 1e-4)
    for name, array in model.state_dict().items():
        np.testing.assert_array_equal(trainer.model.state_dict()[name], array)


def test_schedules_fall_over_the_run():
    def rates(total, schedule):
        trainer = Recipe(lr=1.0, schedule=schedule).trainer(small_model(), total=total)
        found = []
        for step in range(total):
            trainer.schedule.seek(step)
            found.append(trainer.lr)
        return found

    steps_per_epoch = 4  # the paper's 300 epochs: a tenth from epoch 200, a hundredth from epoch 250
    expected = [1.0] * 200 * steps_per_epoch + [0.1] * 50 * steps_per_epoch + [0.01] * 50 * steps_per_epoch
    assert rates(300 * steps_per_epoch, "milestones") == pytest.approx(expected)
    assert rates(1, "milestones") == [1.0] and rates(1, "cosine") == [1.0]
    assert rates(9, "constant") == [1.0] * 9
    cosine = rates(100, "cosine")
    assert cosine[:6] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0]) and 0 < cosine[-1] < 1e-3
    assert cosine[5:] == sorted(cosine[5:], reverse=True)
    with pytest.raises(ValueError, match="milestones or cosine"):
        Recipe(schedule="linear")


def test_log_and_run_folder(straight):
    raw = [json.loads(line) for line in (straight / "log.jsonl").read_text().splitlines()]
    assert set(raw[0]) == {"step", "epoch", "loss", "penalty", "lr", "img_s", "data_wait_ms"}
    lines = log_of(straight)
    assert [(line["step"], line["epoch"]) for line in lines if "lr" in line] == [
        (1, 1), (2, 1), (3, 1), (4, 2), (5, 2), (6, 2), (7, 3),
    ]  # fmt: skip
    scores = [line for line in lines if "best" in line]
    assert [(line["step"], line["epoch"]) for line in scores] == [(3, 1), (6, 2), (7, 3)]
    best = max(scores, key=lambda line: (line["max_f"], -line["mae"]))
    assert runs.read_checkpoint(straight).best == {"": {k: v for k, v in best.items() if k != "best"}}
    assert best["best"] == [""] and {line["size"] for line in scores} == {32}
    files = sorted(p.relative_to(straight).as_posix() for p in straight.rglob("*") if p.is_file())
    assert files == [
        "config.toml", "data.json", "env.json", "log.jsonl", "plots/curves.png", "plots/predictions.png",
        "state/checkpoint.safetensors", "weights/best.safetensors", "weights/last.safetensors",
    ]  # fmt: skip
    last = octsod.load(straight / "weights" / "last.safetensors").state_dict()
    state = runs.read_checkpoint(straight).state
    assert all((array == state[f"model.{name}"]).all() for name, array in last.items())
    assert json.loads((straight / "data.json").read_text()) == {"training": PICTURES[0], "validation": PICTURES[1]}


def test_best_is_the_validation_of_highest_max_f(tmp_path):
    trainer, run = start(tmp_path)
    best = tmp_path / "weights" / "best.safetensors"
    with run:
        for steps, (max_f, mae, better) in enumerate(
            [(0.5, 0.3, True), (0.6, 0.4, True), (0.6, 0.4, False), (0.6, 0.3, True), (0.55, 0.1, False)], 1
        ):
            trainer.steps = steps
            trainer.model.classifier.bias.data[...] = steps
            line = run.record(trainer, 0, {"": Validated({"max_f": max_f, "mae": mae}, {})})
            assert line["best"] == [""] * better and (run.best[""]["step"] == steps) == better
            assert (octsod.load(best).classifier.bias.data == steps).all() == better


@pytest.mark.parametrize("kill", [1, 3, 5, 7])
def test_resume_is_bit_identical(tmp_path, straight, kill, monkeypatch):
    """Killed after any step: in the middle of an epoch, before a validation, with a log ahead of the checkpoint."""
    trainer, run = start(tmp_path)
    monkeypatch.setattr(run, "rescue", lambda trainer: None)  # a kill leaves no time for that

    def show(line):
        if line["step"] == kill and "lr" in line:
            raise KeyboardInterrupt

    with run, pytest.raises(KeyboardInterrupt):
        train(trainer, loader(), run, HELD_OUT, save_every=2, on_line=show)
    with open(tmp_path / "log.jsonl", "ab") as log:
        log.write(b'{"step": 9, "lo')
    trainer, run = go_on(tmp_path)
    assert trainer.steps == {1: 0, 3: 2, 5: 4, 7: 6}[kill]
    with run:
        assert train(trainer, loader(), run, HELD_OUT, save_every=2)
    assert_same_run(tmp_path, straight)
    assert len(json.loads((tmp_path / "env.json").read_text())["resumed"]) == 1


@pytest.mark.parametrize(("questions", "steps", "validated"), [(1, 0, 0), (4, 2, 0), (7, 3, 0), (8, 3, 3)])
def test_a_stop_loses_nothing(tmp_path, straight, questions, steps, validated):
    """Before all, in the middle of an epoch, in a validation, after one: what was done is in the checkpoint."""
    trainer, run = start(tmp_path)
    with run:
        assert not train(trainer, loader(), run, HELD_OUT, stop=Stop(questions))
    checkpoint = runs.read_checkpoint(tmp_path)
    assert (checkpoint.steps, checkpoint.validated) == (steps, validated)
    trainer, run = go_on(tmp_path)
    with run:
        assert train(trainer, loader(), run, HELD_OUT)
    assert_same_run(tmp_path, straight)


def test_killed_between_two_files(tmp_path, straight, monkeypatch):
    """weights/last comes before its checkpoint: whatever it holds after a kill, the resumed run writes it anew."""
    trainer, run = start(tmp_path)
    last = tmp_path / "weights" / "last.safetensors"

    def killed(path, data):
        if trainer.steps == 4:
            raise KeyboardInterrupt
        write_atomically(path, data)

    monkeypatch.setattr(runs, "write_atomically", killed)
    with run, pytest.raises(KeyboardInterrupt):
        train(trainer, loader(), run, HELD_OUT, save_every=2)
    monkeypatch.undo()
    stale = last.read_bytes()
    assert runs.read_checkpoint(tmp_path).steps == 3
    trainer, run = go_on(tmp_path)
    with run:
        train(trainer, loader(), run, HELD_OUT, save_every=9, stop=lambda: True)
        assert last.read_bytes() != stale
        assert train(trainer, loader(), run, HELD_OUT, save_every=2)
    assert_same_run(tmp_path, straight)


def test_a_longer_run(tmp_path, straight):
    """A finished run has nothing more to do, unless it is made longer."""
    assert runs.read_checkpoint(straight).finished() and not runs.read_checkpoint(straight).finished(8)
    trainer, run = start(tmp_path, total=2)
    with run:
        assert train(trainer, loader(), run, HELD_OUT)
    trainer, run = go_on(tmp_path, total=4)
    assert trainer.lr == small_trainer(4).schedule.factor(2) * 1e-3
    with run:
        assert train(trainer, loader(), run, HELD_OUT)
    assert [line["step"] for line in log_of(tmp_path)] == [1, 2, 2, 3, 3, 4, 4]


def test_resume_refuses_what_does_not_fit(tmp_path):
    trainer, run = start(tmp_path)
    with run:
        train(trainer, loader(), run, stop=Stop(3))
        with pytest.raises(FileError, match="by another process"):
            go_on(tmp_path)
    checkpoint = runs.read_checkpoint(tmp_path)

    def refused(settings=SETTINGS, pictures=PICTURES):
        with pytest.raises(FileError) as caught:
            runs.Run.resume(tmp_path, settings, pictures, checkpoint)
        assert str(tmp_path) in str(caught.value)
        return str(caught.value)

    assert "lr = 0.001, not 0.002" in refused({**SETTINGS, "lr": 2e-3})
    assert "size = None, not 32" in refused({**SETTINGS, "size": 32})
    assert "other pictures for training" in refused(pictures=(PICTURES[0][1:], PICTURES[1]))
    line = refused(pictures=(PICTURES[0], [*PICTURES[1], "new"]))
    assert "for validation" in line and "new" in line
    octsod.manual_seed(0)
    with pytest.raises(FileError, match="does not fit the run"):
        checkpoint.restore(Recipe().trainer(octsod.csnet(0.3)))
    before = contents(tmp_path)
    with pytest.raises(FileError, match=r"its optimiser was given lr = 0\.001, not 0\.0001"):
        checkpoint.restore(Recipe(schedule="cosine").trainer(small_model(), total=7))
    with pytest.raises(FileError, match="its schedule is CosineLR, not MultiStepLR"):
        checkpoint.restore(Recipe(lr=1e-3).trainer(small_model(), total=7))
    trainer = small_trainer()
    checkpoint.restore(trainer)
    assert trainer.steps == checkpoint.steps == 1
    assert contents(tmp_path) == before


def test_damaged_checkpoints(tmp_path, straight):
    with pytest.raises(FileError, match="no such run folder"):
        runs.read_checkpoint(tmp_path / "none")
    with pytest.raises(FileError, match="no checkpoint"):
        runs.read_checkpoint(tmp_path)
    path = tmp_path / runs.CHECKPOINT
    path.parent.mkdir()
    whole = (straight / runs.CHECKPOINT).read_bytes()
    flipped = bytearray(whole)
    flipped[-1000] ^= 1
    weights = (straight / "weights" / "last.safetensors").read_bytes()
    for damaged in (b"", b"not a checkpoint", whole[:-1], whole[: len(whole) // 2], bytes(flipped), weights):
        path.write_bytes(damaged)
        with pytest.raises(FileError, match=r"checkpoint\.safetensors: ") as caught:
            runs.read_checkpoint(tmp_path)
        assert "\n" not in str(caught.value)
    path.write_bytes(whole)
    assert runs.read_checkpoint(tmp_path).steps == 7


def test_newest_unfinished(tmp_path, straight):
    assert runs.newest_unfinished(tmp_path / "none") is None
    for number, name in enumerate(("a", "c", "b")):
        trainer, run = start(tmp_path / name)
        with run:
            train(trainer, loader(), run, stop=lambda: True)
        os.utime(tmp_path / name / runs.CHECKPOINT, (number, number))
    done = tmp_path / "done" / runs.CHECKPOINT
    done.parent.mkdir(parents=True)
    done.write_bytes((straight / runs.CHECKPOINT).read_bytes())
    assert runs.newest_unfinished(tmp_path) == tmp_path / "b"


# --- what goes wrong --------------------------------------------------------------------------------------------------


def test_divergence_names_the_op_and_keeps_the_checkpoint(tmp_path):
    trainer, run = start(tmp_path)
    before = {}

    def spoil(line):
        if line["step"] == 4:
            before.update(contents(tmp_path))
            trainer.model.extractor.stages[2][0].mix.weight.data[...] = 3e38

    match = r"stopped in step 5: the loss is (nan|inf).* in OctaveConv2d in `extractor\.stages\.2\.0\.mix`"
    with run, pytest.raises(DivergenceError, match=match):
        train(trainer, loader(), run, save_every=3, on_line=spoil)
    assert contents(tmp_path) == before and runs.read_checkpoint(tmp_path).steps == 3
    assert "step 3" in run.kept
    assert not any(thread.name.startswith("octsod-data") for thread in threading.enumerate())


def test_divergence_names_a_parameter():
    (batch,) = Loader(Ramp(), 6, 32).epoch(0)
    trainer = small_trainer()
    trainer.model.fusion.merge.norms[0].bias.data[1] = np.nan
    with pytest.raises(DivergenceError, match=r"the loss is nan.* in the parameter `fusion\.merge\.norms\.0\.bias`"):
        trainer.step(*batch)
    assert trainer.steps == 0


def test_divergence_names_the_gradient(monkeypatch):
    """Of two gradients, the one that backward reaches first; the optimiser has changed nothing."""
    (batch,) = Loader(Ramp(), 6, 32).epoch(0)
    trainer = small_trainer()
    decay, model = trainer.hook(ScaleDecay).decay, trainer.model
    apply = decay.apply

    def spoiled():
        penalty = apply()
        model.classifier.weight.grad[0] = np.inf
        model.extractor.stages[0][0].mix.weight.grad[0] = np.nan
        return penalty

    monkeypatch.setattr(decay, "apply", spoiled)
    before = {name: p.data.copy() for name, p in model.named_parameters()}
    with pytest.raises(DivergenceError, match=r"gradient that is not finite is that of `classifier\.weight`"):
        trainer.step(*batch)
    assert all((p.data == before[name]).all() for name, p in model.named_parameters())
    monkeypatch.setattr(decay, "apply", lambda: octsod.Tensor(np.inf))
    with pytest.raises(DivergenceError, match="the penalty is inf"):
        trainer.step(*batch)


def test_first_nonfinite():
    """An op outside of any layer, and none at all; the model is left as it was."""
    model, x = small_model(), octsod.Tensor(np.full((1, 3, 32, 32), 0.5, np.float32))
    assert first_nonfinite(model, lambda: model(x)) is None
    assert first_nonfinite(model, lambda: model(x) * 1e38 * 1e38) == "Multiply after the last layer"
    assert not any("forward" in vars(module) for module in model.modules())
    model.classifier.weight.data[...] = 3e38
    assert first_nonfinite(model, lambda: model(x)) == "Conv2d in `classifier`"


@pytest.mark.parametrize("name", ["classifier.bias", "extractor.stages.1.0.mix.norms.0.running_var"])
def test_no_checkpoint_of_a_number_that_is_not_finite(tmp_path, name):
    trainer, run = start(tmp_path)
    with run:
        run.checkpoint(trainer)
        before = contents(tmp_path)
        trainer.steps = 1
        trainer.model.state_dict()[name][...] = np.inf
        with pytest.raises(DivergenceError, match=f"after step 1: `model.{name}` is not finite"):
            run.checkpoint(trainer)
        with pytest.raises(DivergenceError):
            run.record(trainer, 0, {"": Validated({"max_f": 1.0, "mae": 0.0}, {})})
    assert contents(tmp_path) == before


@pytest.mark.parametrize("good", range(6))
def test_full_disk(tmp_path, monkeypatch, good):
    """There is room for `good` more of last weights, log, checkpoint and best weights, and of their folders: one line,
    and every file is whole."""
    trainer, run = start(tmp_path)
    left, real = [None], os.fsync

    def fsync(handle):
        if left[0] is not None:
            left[0] -= 1
            if left[0] < 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)

    def fill(line):
        if line["step"] == 2:
            left[0] = good

    with run, pytest.raises(FileError) as caught:
        train(trainer, loader(), run, HELD_OUT, save_every=3, on_line=fill)
    kept = runs.read_checkpoint(tmp_path).steps
    assert kept == (0 if good < 4 else 3)
    message = str(caught.value)
    assert "No space left on device" in message and f"step {kept} in {tmp_path} is intact" in message
    assert not list(tmp_path.rglob("*.part")) and not list(tmp_path.rglob(".*"))
    for path in (tmp_path / "weights").iterdir():
        octsod.load(path)


def test_full_disk_in_the_log(tmp_path, monkeypatch):
    trainer, run = start(tmp_path)

    class Full:
        def write(self, data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        def fileno(self):
            return run_log.fileno()

        def close(self):
            run_log.close()
            self.write(b"")

    with run:
        run.checkpoint(trainer)
        run_log, run._log = run._log, Full()
        with pytest.raises(FileError, match=r"No space left.*the checkpoint of step 0"):
            run.log({"step": 1})


def test_a_module_that_fails_leaves_no_threads(tmp_path, monkeypatch):
    trainer, run = start(tmp_path)
    monkeypatch.setattr(nn.Conv2d, "forward", lambda self, x: 1 / 0)
    with run, pytest.raises(ZeroDivisionError):
        train(trainer, loader(), run)
    assert not any(thread.name.startswith("octsod-data") for thread in threading.enumerate())


@pytest.mark.parametrize(
    ("kill", "finetuning"), [(None, 3), (2, 3), (4, 3), (5, 3), (4, 4), (6, 4), ("pruned", 3), ("pruned", 4)]
)
def test_learned_channels(tmp_path, kill, finetuning):
    """Algorithm 1: dynamic decay, then fewer channels, then standard decay, in one run that may be cut anywhere."""
    recipe = Recipe(lr=1e-3, finetuning=finetuning, threshold=0.5)

    def wide(steps=7):
        trainer = recipe.trainer(small_model(), total=steps)
        trainer.model.extractor.stages[3][1].mix.norms[0].weight.data[:3] = 1e-3
        return trainer

    def learn(folder, kill=None):
        trainer, run = wide(), runs.Run.create(folder, SETTINGS, PICTURES)
        model = trainer.model
        stops = {None: lambda: False, "pruned": lambda: trainer.model is not model}
        with run:
            if train(trainer, loader(), run, HELD_OUT, stop=stops.get(kill, lambda: trainer.steps >= kill)):
                return trainer
        checkpoint = runs.read_checkpoint(folder)
        trainer = recipe.trainer(checkpoint.model(), total=7)
        checkpoint.restore(trainer)
        with runs.Run.resume(folder, SETTINGS, PICTURES, checkpoint) as run:
            assert train(trainer, loader(), run, HELD_OUT)
        return trainer

    trainer = learn(tmp_path / "run", kill)
    assert trainer.model.configuration.stages[3][1] == (5, 8)
    (line,) = [line for line in log_of(tmp_path / "run") if "pruned" in line]
    wide_weights = tmp_path / "run" / "weights" / "wide.safetensors"
    costs = [octsod.complexity(model).parameters for model in (octsod.load(wide_weights), trainer.model)]
    assert line["step"] == {1: 6, 3: 6, 4: 3}[finetuning] and line["parameters"] == costs
    assert costs[0] == octsod.complexity(small_model()).parameters > costs[1]
    decay = trainer.hook(ScaleDecay).decay
    assert decay.metric == "constant" and decay.strength == 5e-3
    assert octsod.load(tmp_path / "run" / "weights" / "best.safetensors").configuration == trainer.model.configuration
    if kill is not None:
        learn(tmp_path / "whole")
        assert log_of(tmp_path / "whole") == log_of(tmp_path / "run")
        state = [runs.read_checkpoint(tmp_path / name).state for name in ("whole", "run")]
        assert all((state[1][name] == array).all() for name, array in state[0].items())


def test_pruning_takes_the_moments_along():
    trainer = Recipe(lr=1e-3, finetuning=1, threshold=0.5).trainer(small_model(), total=3)
    for _ in range(2):
        assert trainer.hook(ScaleDecay).decay.metric == "average_pooling"
        trainer.step(*next(loader().epoch(0)))
    trainer.model.extractor.stages[1][1].depthwise[0].norms[1].weight.data[0] = 0
    before = {name: array.copy() for name, array in trainer.state_dict().items()}
    rate = trainer.lr  # which has fallen
    plan = trainer.hook(Pruning).prune(trainer)
    assert trainer.lr == rate < 1e-3
    after = trainer.state_dict()
    assert trainer.model.configuration.stages[1][1] == (2, 1) and trainer.steps == 2
    names = [name for name, _ in trainer.model.named_parameters()]
    for name in (f"{moment}.{name}" for moment in ("first", "second") for name in names):
        assert (after[name] == plan.slice(name.partition(".")[2], before[name])).all() and after[name].any()
    with pytest.raises(ValueError, match="7 of them of finetuning"):
        Recipe(finetuning=7).trainer(small_model(), total=7)
