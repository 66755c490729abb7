"""Any network, loss, data set and optimiser in one loop; what happens beside its steps; parts that are frozen."""

import importlib.util
import itertools
import json

import numpy as np
import pytest
from commands import ROOT
from test_data import Ramp

import octsod
from octsod import functional as f
from octsod import nn, optim, prune
from octsod.data import Loader
from octsod.errors import FileError
from octsod.models import files
from octsod.training import (
    Averaging,
    DivergenceError,
    Hook,
    Recipe,
    Saliency,
    Task,
    Trainer,
    Validated,
    fit,
    read_checkpoint,
    runs,
    train,
)

EXAMPLE = ROOT / "docs" / "examples" / "own_network.py"


class Line(Task):
    """Samples are numbers t; the target is 3*t + 1."""

    def prepare(self, sample, size, generator=None):
        return np.float32([sample]), np.float32([3 * sample + 1])

    def loss(self, model, x, y):
        error = model(x) - y
        return (error * error).mean(), {"bias": error.mean()}


def line_trainer(total=8, hooks=(), momentum=0.9):
    octsod.manual_seed(0)
    model = nn.Linear(1, 1)
    optimizer = optim.SGD(model.parameters(), 0.05, momentum=momentum)
    return Trainer(model, Line(), optimizer, optim.OneCycleLR(optimizer, total), total, hooks)


def line_loader():
    return Loader(np.linspace(-1, 1, 12), 3, 1, prepare=Line().prepare)


HELD_OUT = np.array([0.25, -0.5])


def example():
    spec = importlib.util.spec_from_file_location("own_network", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def log_of(folder):
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in ("img_s", "data_wait_ms")} for line in lines]


def test_the_example_learns_and_goes_on_where_it_stopped(tmp_path):
    assert len(EXAMPLE.read_text().splitlines()) <= 60
    module = example()
    module.main(tmp_path / "whole", steps=60)
    scores = [line for line in log_of(tmp_path / "whole") if "best" in line]
    assert [line["step"] for line in scores] == [30, 60]
    assert scores[-1]["distance"] < 0.1 < log_of(tmp_path / "whole")[0]["distance"]
    for name in ("last", "best"):
        model = octsod.load(tmp_path / "whole" / "weights" / f"{name}.safetensors", module.Net())
        expected = read_checkpoint(tmp_path / "whole").state["model.last.weight"]
        assert name == "best" or (model.last.weight.data == expected).all()
    with pytest.raises(FileError, match="architecture 'Net'; known are csnet"):
        octsod.load(tmp_path / "whole" / "weights" / "last.safetensors")
    with pytest.raises(FileError, match="its architecture is Net; expected Linear"):
        octsod.load(tmp_path / "whole" / "weights" / "last.safetensors", nn.Linear(1, 1))

    class Stopping(module.Locate):
        steps = 0

        def loss(self, model, *batch):
            self.steps += model.training
            if self.steps > 40:
                raise KeyboardInterrupt
            return super().loss(model, *batch)

    original = module.Locate
    module.Locate = Stopping
    with pytest.raises(KeyboardInterrupt):
        module.main(tmp_path / "broken", steps=60)
    assert read_checkpoint(tmp_path / "broken").steps == 40
    module.Locate = original
    module.main(tmp_path / "broken", steps=60)
    assert log_of(tmp_path / "broken") == log_of(tmp_path / "whole")
    states = [read_checkpoint(tmp_path / name).state for name in ("broken", "whole")]
    assert states[0].keys() == states[1].keys() and "momentum.last.weight" in states[0]
    assert all((states[0][name] == array).all() for name, array in states[1].items())


def test_terms_are_logged_and_named_when_they_diverge(tmp_path):
    trainer = line_trainer()
    with runs.Run.create(tmp_path, {}, ([], [])) as run:
        assert train(trainer, line_loader(), run, HELD_OUT)
    steps = [line for line in log_of(tmp_path) if "lr" in line]
    assert set(steps[0]) == {"step", "epoch", "loss", "bias", "lr"} and len(steps) == 8
    validations = [line for line in log_of(tmp_path) if "best" in line]
    assert set(validations[0]) == {"step", "epoch", "size", "loss", "bias", "best"}
    trainer = line_trainer()
    trainer.task.loss = lambda model, x, y: (model(x).mean(), {"ratio": (x - x).sum() / (x - x).sum()})
    with pytest.raises(DivergenceError, match=r"step 1: the ratio is nan; .* in Divide after the last layer"):
        trainer.step(np.ones((2, 1)), np.ones((2, 1)))
    trainer = line_trainer()
    for name in ("loss", "step", "lr", "best"):
        trainer.task.loss = lambda model, x, y, name=name: (model(x).mean(), {name: model(x).sum()})
        with pytest.raises(ValueError, match=f"`term` is called {name}; expected a name that the log does not have"):
            trainer.step(np.ones((2, 1)), np.ones((2, 1)))
    for loss, error, words in (
        (lambda z: z, TypeError, r"`loss` has shape \(2, 1\); expected a tensor of one number"),
        (lambda z: None, TypeError, "`loss` is a NoneType"),
        (lambda z: (z.mean(), {"a": z}), ValueError, r"`a` has shape \(2, 1\); expected a tensor of one number"),
        (lambda z: (z.mean(), {"a": 0.5}), ValueError, "`a` is a float; expected a tensor"),
    ):
        trainer.task.loss = lambda model, x, y, loss=loss: loss(model(x))
        with pytest.raises(error, match=words):
            trainer.step(np.ones((2, 1)), np.ones((2, 1)))
    assert trainer.steps == 0


def test_a_task_without_its_methods_says_what_is_missing():
    class Empty(Task):
        pass

    with pytest.raises(TypeError, match="Empty needs a method `prepare`"):
        next(Loader([1.0, 2.0], 1, 1, prepare=Empty().prepare).epoch(0))
    model = nn.Linear(1, 1)
    trainer = Trainer(model, Empty(), optim.SGD(model.parameters(), 0.1))
    with pytest.raises(TypeError, match="Empty needs a method `loss`"):
        trainer.step(np.ones((1, 1), np.float32))
    with pytest.raises(ValueError, match=r"returns .* expected .* as for another sample of the batch"):
        next(Loader([1, 2], 2, 1, prepare=lambda sample, size, generator: (np.ones(sample),), threads=1).epoch(0))


class Noting(Hook):
    name = "noting"

    def __init__(self):
        self.calls = []

    def after_backward(self, trainer):
        assert all(p.grad is not None for p in trainer.model.parameters())
        self.calls.append("backward")
        return {"norm": (trainer.model.weight * trainer.model.weight).sum()}

    def after_step(self, trainer):
        self.calls.append(f"step {trainer.steps}")

    def after_epoch(self, trainer):
        self.calls.append("epoch")
        return {"note": len(self.calls)}

    def before_epoch(self, trainer, run):
        self.calls.append(f"before epoch {run.epoch}")

    def before_saving(self, trainer, run):
        self.calls.append("saving")

    def state_dict(self):
        return {"calls": np.array(len(self.calls))}

    def load_state_dict(self, state):
        self.calls = ["loaded"] * int(state["calls"])


def test_hooks_are_called_in_their_places(tmp_path):
    hook = Noting()
    trainer = line_trainer(6, [hook])
    with runs.Run.create(tmp_path, {}, ([], [])) as run:
        train(trainer, line_loader(), run, HELD_OUT, save_every=100)
    step = lambda n: ["backward", f"step {n}"]  # noqa: E731
    assert hook.calls == [
        "saving", "before epoch 1", *step(1), *step(2), *step(3), *step(4), "epoch", "saving",
        "before epoch 2", *step(5), *step(6), "epoch", "saving",
    ]  # fmt: skip
    lines = [line for line in log_of(tmp_path) if "lr" in line]
    assert all("norm" in line for line in lines)
    assert [line["step"] for line in lines if "note" in line] == [4, 6]
    again = line_trainer(6, [Noting()])
    read_checkpoint(tmp_path).restore(again)
    assert again.hooks[0].calls == ["loaded"] * len(hook.calls)
    with pytest.raises(ValueError, match="`optimizer` has parameters of another model"):
        Trainer(nn.Linear(1, 1), Line(), trainer.optimizer)
    stray = line_trainer(6, [Averaging(nn.Linear(1, 1))])
    with pytest.raises(ValueError, match="Averaging: `model` is another one than the trainer's"):
        stray.step(np.ones((2, 1)), np.ones((2, 1)))
    with pytest.raises(ValueError, match="expected different names, none of model, steps, velocity"):
        line_trainer(6, [Noting(), Noting()])


def test_a_step_may_be_replayed_if_all_say_what_it_depends_on(monkeypatch):
    model = octsod.csnet(0.2)
    assert Recipe().trainer(model).capturable
    assert not Recipe(metric=lambda sums, pixels: np.ones(sums.shape[1])).trainer(model).capturable
    for kind in (nn.Linear, Line, Noting):
        trainer = line_trainer(6, [Noting()])
        assert not trainer.capturable, kind
        monkeypatch.setattr(kind, "constants", lambda self: (), raising=False)
    assert trainer.capturable

    class Other(Line):
        def loss(self, model, x, y):  # of which the constants of `Line` know nothing
            return super().loss(model, x, y)

    trainer.task = Other()
    assert not trainer.capturable
    trainer.task.constants = lambda: ()  # of an object, it does not count either
    assert not trainer.capturable


class Raising(Hook):
    def after_backward(self, trainer):
        raise RuntimeError("by the hook")


def test_a_step_that_raises_has_not_begun():
    """Neither statistics nor gradients are left of it."""
    octsod.manual_seed(0)
    model = octsod.csnet(0.2)
    trainer = Trainer(model, Saliency(), optim.Adam(model.parameters(), 1e-3), hooks=[Raising()])
    before = {name: array.copy() for name, array in model.state_dict().items()}
    with pytest.raises(RuntimeError, match="by the hook"):
        trainer.step(*next(Loader(Ramp(), 2, 32).epoch(0)))
    for name, array in model.state_dict().items():
        np.testing.assert_array_equal(array, before[name], err_msg=name)
    assert trainer.steps == 0 and all(p.grad is None for p in model.parameters())


def test_scores_that_are_no_numbers_are_never_the_best(tmp_path):
    losses = iter([np.nan, 3.0, np.inf, 2.0])

    class Scored(Line):
        def validate(self, model, dataset, size, stop=lambda: False):
            return Validated({"loss": np.float32(next(losses))}, {})

    trainer = line_trainer(16)
    trainer.task = Scored()
    assert fit(trainer, line_loader(), tmp_path, HELD_OUT)
    assert [line["best"] for line in log_of(tmp_path) if "best" in line] == [[""], [""], [], [""]]
    trainer.task.validate = lambda *_: Validated({"step": 1.0}, {})
    trainer.total = 17
    with pytest.raises(ValueError, match="`score` is called step"):
        fit(trainer, line_loader(), tmp_path, HELD_OUT)
    with pytest.raises(ValueError, match="`dataset` is empty"):
        Line().validate(trainer.model, [], 1)


class Counting(nn.Module):
    """A network with a buffer of whole numbers, and attributes that mean something else than a CSNet's."""

    buffers = ("count",)

    def __init__(self):
        self.linear, self.count = nn.Linear(1, 1), np.zeros(1, np.int64)
        self.size, self.labels = (8, 8), [0, 1]

    def forward(self, x):
        self.count += 1
        return self.linear(x)


def test_files_of_a_network_of_ones_own(tmp_path, monkeypatch):
    model = Counting()
    optimizer = optim.SGD(model.parameters(), 0.05)
    assert fit(Trainer(model, Line(), optimizer, total=8), line_loader(), tmp_path / "run", HELD_OUT, {"a": (1, 2)})
    assert model.size == (8, 8)
    other = octsod.load(tmp_path / "run" / "weights" / "last.safetensors", Counting())
    assert other.count == model.count > 0 and other.labels == [0, 1]
    monkeypatch.setattr(files, "_architectures", dict(files._architectures))
    octsod.models.register("Counting", lambda configuration, dtype, count: Counting())
    assert read_checkpoint(tmp_path / "run").model().count == model.count

    def refused(optimizer, settings, words):
        model = Counting()
        trainer = Trainer(model, Line(), type(optimizer)(model.parameters(), 0.05), total=9)
        with pytest.raises(FileError, match=words):
            fit(trainer, line_loader(), tmp_path / "run", HELD_OUT, settings)
        assert trainer.steps == 0

    refused(optimizer, {"a": (1, 3)}, r"a = \[1, 2\], not \[1, 3\]")
    refused(optim.Adam(model.parameters(), 0.05), {"a": (1, 2)}, "its optimizer is SGD, not Adam")


def test_a_moving_average_is_validated_saved_and_resumed(tmp_path):
    octsod.manual_seed(0)

    def averaging():
        trainer = line_trainer(8)
        trainer.hooks.append(Averaging(trainer.model, 0.5))
        return trainer

    def run_in(folder, stop=lambda: False):
        return fit(averaging(), line_loader(), folder, HELD_OUT, {"decay": 0.5}, save_every=3, stop=stop)

    assert run_in(tmp_path / "whole")
    asked = iter(range(100))
    assert not run_in(tmp_path / "broken", stop=lambda: next(asked) > 6)
    assert 0 < read_checkpoint(tmp_path / "broken").steps < 8
    assert run_in(tmp_path / "broken")
    assert log_of(tmp_path / "broken") == log_of(tmp_path / "whole")
    line = [line for line in log_of(tmp_path / "whole") if "best" in line][-1]
    assert line["average"].keys() == {"loss", "bias"} and line["average"]["loss"] != line["loss"]
    names = sorted(path.stem for path in (tmp_path / "whole" / "weights").iterdir())
    assert names == ["best", "best-average", "last", "last-average"]
    last, average = (
        octsod.load(tmp_path / "whole" / "weights" / f"{name}.safetensors", nn.Linear(1, 1)).weight.data.item()
        for name in ("last", "last-average")
    )
    expected, weights = None, []
    trainer = line_trainer(8)
    for epoch in range(2):
        for batch in line_loader().epoch(epoch):
            before = trainer.model.weight.data.item()
            expected = before if expected is None else expected
            trainer.step(*batch)
            share = min(0.5, (1 + len(weights)) / (10 + len(weights)))
            weights.append(trainer.model.weight.data.item())
            expected += (1 - share) * (weights[-1] - expected)
    assert last == weights[-1] and average == pytest.approx(expected, rel=1e-5)
    with pytest.raises(FileError, match=r"decay = 0\.5, not None"):
        fit(averaging(), line_loader(), tmp_path / "whole", HELD_OUT)


class Noisy(nn.Module):
    def __init__(self):
        self.dropout, self.linear = nn.Dropout(0.5), nn.Linear(4, 1)

    def forward(self, x):
        return self.linear(self.dropout(x))


class Sum(Task):
    def prepare(self, sample, size, generator=None):
        return np.full(4, sample, np.float32), np.float32([sample])

    def loss(self, model, x, y):
        return ((model(x) - y) ** 2).mean()


def test_dropout_draws_the_same_in_a_resumed_run(tmp_path):
    others = itertools.count(1)

    def run_in(folder, stop=lambda: False):
        octsod.manual_seed(0)
        model = Noisy()
        trainer = Trainer(model, Sum(), optim.SGD(model.parameters(), 0.01), total=8, seed=5)
        octsod.manual_seed(next(others))
        fit(trainer, Loader(np.arange(8.0), 2, 1, prepare=Sum().prepare), folder, save_every=3, stop=stop)

    run_in(tmp_path / "whole")
    asked = iter(range(100))
    run_in(tmp_path / "broken", stop=lambda: next(asked) > 4)
    run_in(tmp_path / "broken")
    assert log_of(tmp_path / "broken") == log_of(tmp_path / "whole")
    losses = [line["loss"] for line in log_of(tmp_path / "whole")]
    assert len(set(losses)) == len(losses) == 8


# --- saliency: losses and side outputs --------------------------------------------------------------------------------


def logits_and_masks(rng):
    return rng.standard_normal((2, 1, 6, 5)), (rng.random((2, 1, 6, 5)) > 0.5).astype(float)


@pytest.mark.parametrize("name", ["bce", "bce+iou", "bce+dice"])
def test_losses_equal_their_formulas(name):
    logits, masks = logits_and_masks(np.random.default_rng(0))
    p = 1 / (1 + np.exp(-logits))
    bce = -(masks * np.log(p) + (1 - masks) * np.log(1 - p)).mean()
    both, either = ((part).sum(axis=(1, 2, 3)) for part in (p * masks, p + masks))
    region = {"iou": 1 - (both + 1) / (either - both + 1), "dice": 1 - (2 * both + 1) / (either + 1)}
    loss = Saliency(name).loss(lambda x: x, octsod.Tensor(logits), octsod.Tensor(masks))
    loss, terms = loss
    kind = name.partition("+")[2]
    assert loss.item() == pytest.approx(bce + (region[kind].mean() if kind else 0), rel=1e-12)
    assert set(terms) == ({"bce", kind} if kind else set())
    with pytest.raises(ValueError, match="`loss` is 'mse'; expected bce or bce"):
        Saliency("mse")


def test_side_outputs_exist_in_training_only(tmp_path):
    octsod.manual_seed(0)
    model = octsod.csnet(0.2, sides=True)
    x = octsod.Tensor(np.random.default_rng(0).standard_normal((1, 3, 32, 32)).astype(np.float32))
    outputs = model(x)
    assert len(outputs) == 4 and all(tuple(y.shape) == (1, 1, 32, 32) for y in outputs)
    assert tuple(model.eval()(x).shape) == (1, 1, 32, 32)
    y = octsod.Tensor(np.ones((1, 1, 32, 32), np.float32))
    loss, terms = Saliency("bce+iou").loss(model.train(), x, y)
    logits, *sides = model(x)
    each = [f.binary_cross_entropy_with_logits(s, y).item() + f.iou_loss(s, y).item() for s in (logits, *sides)]
    assert terms["sides"].item() == pytest.approx(np.mean(each[1:]), rel=1e-5)
    assert loss.item() == pytest.approx(each[0] + 0.4 * np.mean(each[1:]), rel=1e-5)
    octsod.save(model, tmp_path / "w.safetensors")
    loaded = octsod.load(tmp_path / "w.safetensors")
    assert not loaded.configuration.sides and not any(name.startswith("sides") for name in loaded.state_dict())
    np.testing.assert_array_equal(loaded.eval()(x).numpy(), model.eval()(x).numpy())
    assert octsod.complexity(model) == octsod.complexity(loaded)


# --- sizes that change ------------------------------------------------------------------------------------------------


def test_a_loader_changes_the_size_with_the_batch():
    loader = Loader(Ramp(), 2, [(0, 16), (2, 32), (4, 48)])
    sides = [batch[0].shape[2] for epoch in (0, 1) for batch in loader.epoch(epoch)]
    assert sides == [16, 16, 32, 32, 48, 48] == [loader.side(n) for n in range(6)]
    assert [batch[0].shape[2] for batch in loader.epoch(1, first=1)] == [48, 48]
    for bad in ([(1, 16)], [(0, 16), (0, 32)], [(0, 16), (3, 32), (2, 48)], []):
        with pytest.raises(ValueError, match="sides from rising batches on"):
            Loader(Ramp(), 2, bad)


@pytest.mark.parametrize("stop", [2, 4, 6, 7])
def test_resume_is_bit_identical_across_a_change_of_size(tmp_path, stop):
    held_out = [Ramp()[1], Ramp()[4]]

    def run_in(folder, questions=10_000):
        octsod.manual_seed(0)
        trainer = Recipe(lr=1e-3, schedule="one-cycle", average=0.9).trainer(octsod.csnet(0.2), total=8)
        loader = Loader(Ramp(), 2, [(0, 32), (4, 48)], seed=3)
        asked = iter(range(10_000))
        return fit(trainer, loader, folder, held_out, save_every=3, stop=lambda: next(asked) >= questions)

    assert run_in(tmp_path / "whole")
    assert not run_in(tmp_path / "broken", stop)
    assert run_in(tmp_path / "broken")
    assert log_of(tmp_path / "broken") == log_of(tmp_path / "whole")
    states = [read_checkpoint(tmp_path / name) for name in ("broken", "whole")]
    assert all((states[0].state[name] == array).all() for name, array in states[1].state.items())
    scores = [line for line in log_of(tmp_path / "whole") if "best" in line]
    assert [line["size"] for line in scores] == [32, 48, 48]
    assert "" in scores[1]["best"], "the best at another size counts no more"
    assert octsod.load(tmp_path / "whole" / "weights" / "last.safetensors").size == 48


# --- frozen parts -----------------------------------------------------------------------------------------------------


def test_parts_are_frozen_by_name(tmp_path):
    octsod.manual_seed(0)
    model = octsod.csnet(0.2)
    trainer = Recipe(lr=1e-3).trainer(model)
    for epoch in range(20):  # until the running statistics, which will be used, are those of its maps
        for batch in Loader(Ramp(), 3, 32).epoch(epoch):
            trainer.step(*batch)
    for part in (*model.parts()["extractor"], *model.parts()["classifier"]):
        part.freeze()
    before = {name: array.copy() for name, array in model.state_dict().items()}
    trainer = Recipe(lr=1e-2, average=0.9).trainer(model, total=3)
    for batch in Loader(Ramp(), 2, 32).epoch(0):
        trainer.step(*batch)
    changed = {name for name, array in model.state_dict().items() if (array != before[name]).any()}
    assert changed and all(name.startswith("fusion.") for name in changed)
    assert any("running_mean" in name for name in changed)
    state = trainer.state_dict()
    assert not any(name.startswith("first.extractor") for name in state)
    again = Recipe(lr=1e-2, average=0.9).trainer(model, total=3)
    again.load_state_dict({name: np.copy(array) for name, array in state.items()})
    pruned = prune.apply(model, prune.plan(model, ratio=0.2))
    frozen = {name for name, module in pruned.named_modules() if module.frozen}
    before = {name for name, module in model.named_modules() if module.frozen}
    assert frozen == before & dict(pruned.named_modules()).keys()
    assert {name for name, p in pruned.named_parameters() if p.requires_grad} == {
        name for name, p in pruned.named_parameters() if name.startswith("fusion")
    }
    assert {f"stage{k}" for k in range(5)} <= model.parts().keys()
    assert model.parts()["stage3"] == list(model.extractor.stages[3])


def test_saving_draws_no_random_numbers(tmp_path):
    def second(saved):
        octsod.manual_seed(0)
        model = octsod.csnet(0.2, sides=True)
        if saved:
            octsod.save(model, tmp_path / "w.safetensors")
        return octsod.csnet(0.2).classifier.weight.data

    np.testing.assert_array_equal(second(True), second(False))


def test_a_run_without_validation_is_finished(tmp_path):
    assert fit(line_trainer(2), line_loader(), tmp_path / "run")
    assert read_checkpoint(tmp_path / "run").finished() and runs.newest_unfinished(tmp_path) is None
