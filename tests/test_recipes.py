"""Recipes by name, under the settings of files and options; and when, by the clock, runs save and validate."""

import json
import time

import pytest
from commands import refused, run
from test_data import write_pairs
from test_training import HELD_OUT, PICTURES, SETTINGS, loader, log_of, small_trainer

from octsod.errors import FileError
from octsod.training import Recipe, loop, read_recipe, recipe_names, resolve, runs, train
from octsod.training.recipes import WARMUP
from octsod.training.settings import SETTINGS as ALL

try:
    import tomllib
except ImportError:  # Python 3.10
    import tomli as tomllib


def printed(*arguments):
    result = run("train", "--print-config", *arguments)
    assert result.exit_code == 0, result.output
    return tomllib.loads(result.stdout)


# --- recipes ----------------------------------------------------------------------------------------------------------


def test_recipes_of_octsod():
    assert recipe_names() == ("fast", "paper")
    for name in recipe_names():
        recipe = read_recipe(name)
        assert not {"data", "images", "masks", "val", "init", "width", "threads", "seed"} & recipe.keys()
        assert recipe.items() <= resolve({"data": "x"}, recipe).items()


def test_the_warm_up_in_help_is_that_of_the_cosine():
    said = " ".join(run("train", "--help").stdout.split())
    assert f"rises for a twentieth of the run, at most {WARMUP} steps, then falls along half a cosine (cosine)" in said
    assert [Recipe(lr=1, schedule="cosine").rate(k, 200) for k in (0, 9, 10, 200)] == pytest.approx([0.1, 1, 1, 0])


def test_the_papers_recipe_is_the_default():
    assert resolve({"data": "x"}, read_recipe("paper")) == resolve({"data": "x"})
    recipe, paper = Recipe(), read_recipe("paper")
    for name in paper.keys() & vars(recipe).keys() - {"decay_strength"}:
        assert getattr(recipe, name) == paper[name]


def test_recipe_yields_to_a_file_and_that_to_options(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = write_pairs(tmp_path / "set", stems="abcdefg")
    (tmp_path / "c.toml").write_text("lr = 0.5\nbatch_size = 3\n")
    (tmp_path / "mine.toml").write_text('loss = "bce+dice"\nlr = 0.25\n')
    fast = read_recipe("fast")
    for order in (("--recipe", "fast", "-c", "c.toml"), ("-c", "c.toml", "--recipe", "fast")):
        found = printed("--data", data, *order, "--batch-size", "2")
        assert (found["lr"], found["batch_size"], found["loss"]) == (0.5, 2, fast["loss"])
        assert found["size"] == fast["size"] and found["average"] == fast["average"]
    found = printed("--data", data, "--recipe", "mine.toml")
    assert (found["loss"], found["lr"], found["epochs"]) == ("bce+dice", 0.25, ALL["epochs"].default)
    assert read_recipe("mine.toml") == {"loss": "bce+dice", "lr": 0.25}


def test_what_a_file_says_replaces_the_recipes_other_words(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = write_pairs(tmp_path / "set", stems="abcdefg")
    for text, absent, expected in (
        ('decay = "standard"', (), {"decay_strength": 5e-3}),
        ('decay = "none"', ("decay_strength",), {}),
        ("steps = 7", ("epochs",), {"steps": 7}),
        (f"images = '{data}/images'\nmasks = '{data}/masks'", ("data",), {"images": f"{data}/images"}),
    ):
        (tmp_path / "c.toml").write_text(text)
        (tmp_path / "mine.toml").write_text(f"data = '{data}'\nepochs = 3\ndecay = 'dynamic'\ndecay_strength = 3.0\n")
        for order in (("--recipe", "mine.toml", "-c", "c.toml"), ("-c", "c.toml", "--recipe", "mine.toml")):
            found = printed(*order)
            assert not found.keys() & {*absent} and found.items() >= expected.items()


def test_a_file_named_as_a_recipe_is_used_with_a_note(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "fast").write_text("lr = 0.125\n")
    with pytest.warns(UserWarning, match=r"^fast: is a file here, which is used instead of octsod's own recipe"):
        assert read_recipe("fast") == {"lr": 0.125}
    result = run("train", "--recipe", "fast", "--print-config")
    assert tomllib.loads(result.stdout)["lr"] == 0.125 and result.stderr.count("fast: is a file here") == 1


def test_channels_are_not_learned_where_none_can_vanish():
    words = "--learn-channels needs --decay, by which scales vanish, or a --threshold"
    assert words in refused("train", "--recipe", "fast", "--learn-channels", "2")
    assert printed("--recipe", "fast", "--learn-channels", "2", "--threshold", "1e-3")["threshold"] == 1e-3


def test_faults_of_recipes_name_their_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "r.toml").write_text("speed = 3\n")
    (tmp_path / "s.toml").write_text("lr = -1\n")
    (tmp_path / "t.toml").write_text('decay = "none"\ndecay_strength = 1.0\n')
    (tmp_path / "u.toml").write_text("lr = \n")
    for name, words in {
        "slow": "slow: no such file, and no recipe of octsod's, which are fast and paper",
        "r.toml": "r.toml: `speed` is no setting", "s.toml": "s.toml: `lr`", "u.toml": "u.toml: is no TOML",
    }.items():  # fmt: skip
        assert words in refused("train", "--recipe", name)
        with pytest.raises(FileError, match=words):
            read_recipe(name)
    assert "t.toml: `decay_strength` is of no use" in refused("train", "--recipe", "t.toml")
    (tmp_path / "x.toml").write_text('recipe = "fast"\n')
    for option in ("--recipe", "-c"):
        words = "Error: x.toml: `recipe` is no setting: a file of settings cannot build on a recipe; `octsod train "
        assert refused("train", option, "x.toml").startswith(words)
    (tmp_path / "v.toml").write_text("decay_strength = 1.0\n")  # drawn pictures are trained on without decay
    assert "v.toml: `decay_strength` is of no use with `decay` none" in refused("train", "-c", "v.toml")
    assert "--decay-strength is of no use with --decay none" in refused("train", "--decay-strength", "1")
    (tmp_path / "empty.toml").write_text("")
    assert "'': no such file, and no recipe" in refused("train", "--recipe", "")
    both = refused("train", "-c", "empty.toml", "--recipe", "t.toml")
    assert "t.toml: `decay_strength` is of no use" in both
    run_folder = tmp_path / "run"
    with runs.Run.create(run_folder, resolve({}), PICTURES) as started:
        started.checkpoint(small_trainer())
    (tmp_path / "w.toml").write_text('init = "csnet-x9"\n')
    assert "w.toml: `init`: csnet-x9: no such file, and no network" in refused("train", "-c", "w.toml")
    assert "leave --recipe, --config and --output out" in refused("train", "--resume", run_folder, "--recipe", "fast")


# --- checkpoints and validations by the clock -------------------------------------------------------------------------


class Clock:
    """`time`, as `loop` sees it, in which each step takes a minute."""

    def __init__(self, now=0.0):
        self.now = now

    def monotonic(self):
        return 60 * self.now

    @staticmethod
    def perf_counter():
        return time.perf_counter()

    def pass_step(self, line):
        self.now += "lr" in line


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(loop, "time", clock)
    return clock


@pytest.fixture
def saved(monkeypatch):
    """The steps after which checkpoints have been written."""
    found, write = [], runs.write_atomically

    def note(path, data):
        write(path, data)
        if path.name == runs.CHECKPOINT.name:
            found.append(runs.read_checkpoint(path.parents[1]).steps)

    monkeypatch.setattr(runs, "write_atomically", note)
    return found


def created(folder, total=7):
    return small_trainer(total), runs.Run.create(folder, SETTINGS, PICTURES)


def test_checkpoints_by_time(tmp_path, clock, saved):
    trainer, run = created(tmp_path / "a")
    with run:
        assert train(trainer, loader(), run, on_line=clock.pass_step, save_every=100, save_minutes=2.5)
    # Step 4 is the first to begin 2.5 minutes after the start; step 7 is the last.
    assert saved == [0, 4, 7]


def test_checkpoints_by_steps_and_time(tmp_path, clock, saved):
    trainer, run = created(tmp_path / "a")
    with run:
        assert train(trainer, loader(), run, on_line=clock.pass_step, save_every=2, save_minutes=1e9)
    assert saved == [0, 2, 4, 6, 7]


def test_validation_by_time(tmp_path, clock):
    """Wherever in an epoch of three steps that is, and at the end; weights are those of any other run."""
    trainer, run = created(tmp_path / "a")
    with run:
        assert train(trainer, loader(), run, HELD_OUT, on_line=clock.pass_step, validate_minutes=2)
    lines = log_of(tmp_path / "a")
    assert [line["step"] for line in lines if "best" in line] == [2, 4, 6, 7]
    assert [line["epoch"] for line in lines if "best" in line] == [1, 2, 2, 3]
    assert [line["step"] for line in lines if "lr" in line] == list(range(1, 8))
    straight, run = created(tmp_path / "b")
    with run:
        assert train(straight, loader(), run, HELD_OUT)
    state = straight.state_dict()
    assert all((array == state[name]).all() for name, array in trainer.state_dict().items())


def test_time_before_an_interruption_counts(tmp_path, clock):
    folder = tmp_path / "a"
    trainer, run = created(folder)
    with run:
        stop = lambda: trainer.steps == 2  # noqa: E731
        assert not train(trainer, loader(), run, HELD_OUT, on_line=clock.pass_step, validate_minutes=4, stop=stop)
    clock.now += 1000
    checkpoint = runs.read_checkpoint(folder)
    assert checkpoint.since == 120
    trainer = Recipe(lr=1e-3, schedule="cosine").trainer(checkpoint.model(), total=7)
    checkpoint.restore(trainer)
    with runs.Run.resume(folder, SETTINGS, PICTURES, checkpoint) as run:
        assert train(trainer, loader(), run, HELD_OUT, on_line=clock.pass_step, validate_minutes=4)
    assert [line["step"] for line in log_of(folder) if "best" in line] == [4, 7]


def test_settings_reach_the_run(tmp_path, monkeypatch):
    data = write_pairs(tmp_path / "set", stems="abcdefg", size=(40, 40))
    small = ("--data", data, "--width", "0.2", "--size", "32", "-b", "2", "--epochs", "2", "--threads", "1", "-q")
    clock = Clock()
    monkeypatch.setattr(loop, "time", clock)
    log = runs.Run.log

    def passing(self, line):
        log(self, line)
        clock.pass_step(line)

    monkeypatch.setattr(runs.Run, "log", passing)
    by_time = ("--save-every", "50", "--save-minutes", "60", "--validate-minutes", "2")
    result = run("train", *small, *by_time, "-o", tmp_path / "r")
    assert result.exit_code == 0, result.output
    settings = tomllib.loads((tmp_path / "r" / "config.toml").read_text())
    assert (settings["save_every"], settings["save_minutes"], settings["validate_minutes"]) == (50, 60, 2)
    lines = [json.loads(line) for line in (tmp_path / "r" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "best" in line] == [2, 4, 6]
    for option in ("--save-every", "--save-minutes", "--validate-minutes"):
        assert "Invalid value" in refused("train", option, "0")
