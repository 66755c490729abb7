"""A data set's scores are those of its pictures, however they are batched; files that cannot be scored are named."""

import contextlib
import csv
import errno
import json
import os
import shutil
import sys
import threading

import numpy as np
import pytest
from commands import octsod_process, refused, run
from PIL import Image
from test_data import Ramp, write_pairs

import octsod
from octsod import evaluation
from octsod.data import FolderDataset, Sample
from octsod.data.images import prepare
from octsod.errors import FileError, OctsodError
from octsod.evaluation import Evaluation, PictureScores, Scores, average, average_all, evaluate, score, score_all


@pytest.fixture(scope="module")
def model():
    """A small network whose running statistics fit pictures such as `write_pairs` draws."""
    octsod.manual_seed(0)
    model = octsod.csnet(0.2)
    model.size = 32
    for i in range(20):
        model(octsod.Tensor(np.stack([prepare(Ramp()[(i + k) % 6].image, 32) for k in range(3)])))
    return model


@pytest.fixture(scope="module")
def weights(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "w.safetensors"
    octsod.save(model, path)
    return path


@pytest.fixture
def data(tmp_path):
    """Five pictures of three sizes, one with a comma in its name."""
    root = write_pairs(tmp_path / "set")
    for size, stem in (((61, 24), "d,e"), ((24, 24), "f")):
        write_pairs(tmp_path / stem, stems=(stem,), size=size)
        shutil.copytree(tmp_path / stem, root, dirs_exist_ok=True)
    return root


def spoil(data):
    """Make two of the five unreadable, one by a mask of another size."""
    Image.new("L", (30, 30)).save(data / "masks" / "a.png")
    (data / "images" / "c.jpg").write_bytes(b"nothing")
    return data


def no_threads_left():
    return not any(thread.name.startswith("octsod-data") for thread in threading.enumerate())


# --- in Python --------------------------------------------------------------------------------------------------------


def test_scores_are_those_of_the_pictures(model, data):
    dataset = FolderDataset(data)
    expected = [score(octsod.predict(image, model, 32), mask) for _, image, mask in dataset]
    seen = []
    result = octsod.evaluate(model, data, 32, batch_size=2, on_progress=lambda *update: seen.append(update))
    assert [(p.index, p.name) for p in result.pictures] == list(enumerate(["a", "b", "c", "d,e", "f"]))
    for picture, scores in zip(result.pictures, expected, strict=True):
        np.testing.assert_array_equal(picture.scores.precision, scores.precision)
        np.testing.assert_array_equal(picture.scores.recall, scores.recall)
    total = average(expected)
    assert (result.max_f, result.mae, result.images) == (total.max_f, total.mae, 5)
    assert 0 < result.mae < 1 and 0 < result.network_seconds < result.seconds
    assert result.images_per_s == 5 / result.seconds and result.protocol["size"] == 32
    assert seen == [(2, "b"), (4, "d,e"), (5, "f")] and model.training and no_threads_left()


def test_all_scores(model, data):
    expected = [score_all(octsod.predict(image, model, 32), mask).as_dict() for _, image, mask in FolderDataset(data)]
    result, plain = evaluate(model, data, 32, 2, all_scores=True), evaluate(model, data, 32)
    assert [picture.all_scores.as_dict() for picture in result.pictures] == expected
    assert result.all_scores == average_all(picture.all_scores for picture in result.pictures).as_dict()
    assert (result.max_f, result.mae) == (plain.max_f, plain.mae) and "all_scores" in result.protocol
    assert plain.all_scores is None and all(picture.all_scores is None for picture in plain.pictures)


def test_scores_depend_on_neither_batches_nor_threads(model, data):
    results = []
    for threads, batch_size in ((1, 1), (2, 3), (3, 16)):
        octsod.set_num_threads(threads)
        results.append(evaluate(model, FolderDataset(data), 32, batch_size))
    for other in results[1:]:
        assert (other.max_f, other.mae) == (results[0].max_f, results[0].mae)
        np.testing.assert_array_equal(other.scores.f, results[0].scores.f)


def test_failures(model, data):
    dataset = FolderDataset(spoil(data))
    with pytest.raises(FileError, match=r"a\.png: the mask is 30x30"):
        evaluate(model, dataset, 32)
    assert no_threads_left()
    failures, seen = [], []
    result = evaluate(model, dataset, 32, 2, failures.append, lambda *update: seen.append(update))
    assert [p.name for p in result.pictures] == ["b", "d,e", "f"] and seen[-1] == (5, "f")
    assert [str(error).split(": ")[0] for error in failures] == [
        str(data / "masks" / "a.png"), str(data / "images" / "c.jpg"),
    ]  # fmt: skip
    for stem in "ac":
        (data / "images" / f"{stem}.jpg").unlink()
    without = evaluate(model, data, 32)
    assert (result.max_f, result.mae) == (without.max_f, without.mae)
    for picture in (data / "images").iterdir():
        picture.write_bytes(b"")
    with pytest.raises(OctsodError, match="none of the 3 pictures"):
        evaluate(model, data, 32, on_failure=failures.append)


def test_a_few_batches_are_in_memory_at_a_time(model, monkeypatch):
    """When a batch enters the network, no more than the next ones have been started, and no more are unscored."""

    class Counting:
        started = 0

        def __len__(self):
            return 40

        def __getitem__(self, index):
            self.started = max(self.started, index + 1)
            return Sample(str(index), Ramp()[0].image, Ramp()[0].mask)

    dataset, entered, scored = Counting(), 0, 0
    infer, warm = evaluation.scoring.infer, True

    def watched(model, x):
        nonlocal entered, warm
        if not warm:
            entered += len(x)
            assert dataset.started <= entered + 2 * 4
            assert entered - scored <= 3 * 4
        warm = False
        return infer(model, x)

    def progress(done, name):
        nonlocal scored
        scored = done

    monkeypatch.setattr(evaluation.scoring, "infer", watched)
    evaluate(model, dataset, 32, 4, on_progress=progress)
    assert entered == scored == 40


def test_worst():
    def picture(index, f, mae):
        return PictureScores(index, str(index), Scores(np.full(256, f), np.full(256, f), mae), 1)

    pictures = [picture(0, 0.9, 0.1), picture(1, 0.2, 0.1), picture(2, 0.2, 0.3), picture(3, 0.1, 0.0)]
    result = Evaluation(average(p.scores for p in pictures), pictures, 224, 1.0, 0.5)
    assert [p.index for p in result.worst(3)] == [3, 2, 1]
    assert len(result.worst(9)) == 4


def test_bad_arguments(model, data, tmp_path):
    with pytest.raises(ValueError, match="evaluate: `data` is empty"):
        evaluate(model, [])
    with pytest.raises(ValueError, match="batch_size"):
        evaluate(model, data, 32, 0)
    with pytest.raises(ValueError, match="16"):
        evaluate(model, data, 40)
    with pytest.raises(FileError, match="none"):
        evaluate(model, tmp_path / "none")
    with pytest.raises(ValueError, match=r"`data` has a mask \(3, 4\) for the picture a"):
        evaluate(model, [Sample("a", Ramp()[0].image, np.zeros((3, 4), np.uint8))], 32)
    octsod.manual_seed(1)
    untrained = octsod.csnet(1.0)
    with pytest.raises(OctsodError, match="not finite"):
        evaluate(untrained, data, 32)
    assert no_threads_left()


# --- octsod eval ------------------------------------------------------------------------------------------------------


def test_eval(weights, data, tmp_path):
    table, sheet = tmp_path / "scores.csv", tmp_path / "worst.png"
    arguments = ("eval", "--weights", weights, "--data", data, "--size", 32)
    done = run(*arguments, "--per-image", table, "--worst", 2, sheet)
    assert done.exit_code == 0, done.output
    result = octsod.evaluate(octsod.load(weights), data, 32)
    lines = [line.split() for line in done.stdout.splitlines()]
    assert lines[0][:3] == ["max", "F", f"{result.max_f:.4f}"] and lines[1] == ["MAE", f"{result.mae:.4f}"]
    assert lines[2] == ["images", "5"] and lines[3][0] == "images/s"
    assert "picture 5/5" in done.stderr
    with open(table, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    for row, (_, name, scores, pixels, _) in zip(rows, result.pictures, strict=True):
        numbers = (scores.f[result.scores.threshold], scores.max_f, scores.mae)
        numbers = dict(zip(("f", "max_f", "mae"), (f"{n:.6f}" for n in numbers), strict=True))
        with Image.open(data / "masks" / f"{name}.png") as mask:
            assert row == {"name": name, **numbers, "object_pixels": str(np.count_nonzero(mask))} and pixels > 0
    with Image.open(sheet) as image:
        assert image.width > 3 * 224 and image.height > 2 * 224


def test_eval_json(weights, data):
    arguments = ("eval", "--weights", weights, "--data", data, "--json", "-q")
    (data / "masks" / "b.png").unlink()
    done = run(*arguments)
    assert done.exit_code == 0 and done.stderr == "Left out, since they have no partner (1): b.jpg\n"
    facts = json.loads(done.stdout)
    result = octsod.evaluate(octsod.load(weights), data, 32)
    assert (facts["max_f"], facts["mae"], facts["threshold"]) == (result.max_f, result.mae, result.scores.threshold)
    assert (facts["images"], facts["failed"], facts["unpaired"]) == (4, 0, 1) and facts["images_per_s"] > 0
    assert facts["protocol"] == result.protocol and facts["protocol"]["beta2"] == 0.3
    assert facts["protocol"]["size"] == 32  # the network's
    assert json.loads(run(*arguments, "--size", 48).stdout)["protocol"]["size"] == 48


def test_eval_all_scores(weights, data, tmp_path):
    table = tmp_path / "scores.csv"
    arguments = ("eval", "--weights", weights, "--data", data, "--all-scores", "-q")
    result = octsod.evaluate(octsod.load(weights), data, 32, all_scores=True)
    facts = json.loads(run(*arguments, "--json").stdout)
    assert {name: facts[name] for name in result.all_scores} == result.all_scores
    assert (facts["max_f"], facts["protocol"]) == (result.max_f, result.protocol)
    lines = run(*arguments, "--per-image", table).stdout.splitlines()
    assert [line[:10].rstrip() for line in lines] == [
        "max F", "MAE", "S-measure", "E max", "E mean", "E adaptive", "weighted F", "mean F", "adaptive F", "max F",
        "images", "images/s",
    ]  # fmt: skip
    assert [line[10:18] for line in lines[2:10]] == [f"{value:8.4f}" for value in result.all_scores.values()]
    with open(table, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    for row, picture in zip(rows, result.pictures, strict=True):
        scores = picture.all_scores.as_dict()
        assert list(row) == ["name", "f", "max_f", "mae", *scores, "object_pixels"]
        assert {name: row[name] for name in scores} == {name: f"{value:.6f}" for name, value in scores.items()}


def test_eval_names_what_cannot_be_scored(weights, data):
    spoil(data)
    done = run("eval", "--weights", weights, "--data", data, "--size", 32, "--json", "-q")
    assert done.exit_code == 1
    facts = json.loads(done.stdout)
    assert (facts["images"], facts["failed"]) == (3, 2)
    first, second = done.stderr.splitlines()
    assert first.startswith("Error: ") and "a.png: the mask is 30x30, but its picture a.jpg is 40x30" in first
    assert second.startswith(f"Error: {data / 'images' / 'c.jpg'}: ")
    assert "2 failed" in run("eval", "--weights", weights, "--data", data, "--size", 32).stdout
    for picture in (data / "images").iterdir():
        picture.write_bytes(b"")
    assert "none of the 5 pictures" in refused("eval", "--weights", weights, "--data", data, "--size", 32)


def test_eval_curves(weights, data, tmp_path):
    pytest.importorskip("matplotlib", reason="needs the matplotlib package")
    table, picture = tmp_path / "curves.CSV", tmp_path / "curves.Png"
    done = run("eval", "--weights", weights, "--data", data, "--curves", picture, "--curves", table, "-q")
    assert done.exit_code == 0 and done.stdout.startswith("max F "), done.output
    scores = octsod.evaluate(octsod.load(weights), data, 32).scores
    with open(table, encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["threshold", "precision", "recall", "f"]
    thresholds, *curves = zip(*rows, strict=True)
    assert thresholds == tuple(map(str, range(256)))
    for name, curve in zip(header[1:], curves, strict=True):
        assert list(map(float, curve)) == getattr(scores, name).tolist()
    assert Image.open(picture).format == "PNG"
    assert run("eval", "--weights", weights, "--data", data, "--curves", table).exit_code == 2  # it exists


def test_the_figure_of_the_curves():
    pytest.importorskip("matplotlib", reason="needs the matplotlib package")
    thresholds = np.arange(256)
    found = thresholds < 250  # anything at all
    scores = Scores(np.where(found, (thresholds + 1) / 256, 1), np.where(found, 1 - thresholds / 256, 1e-9), 0.1)
    plane, course = octsod.figures.curves(scores).axes
    for plot, x, y in ((plane, scores.recall[found], scores.precision[found]), (course, thresholds, scores.f)):
        np.testing.assert_array_equal(plot.lines[0].get_xydata(), np.stack((x, y), axis=1))
        assert plot.lines[-1].get_xydata().tolist() == [[x[scores.threshold], y[scores.threshold]]]
        assert plot.get_xlim()[1] > x.max() and plot.get_ylim() == (0, 1.01)
    (words,) = [text.get_text() for text in course.texts]
    assert words == f"max F {scores.max_f:.4f} at threshold {scores.threshold}" and 0 < scores.threshold < 255


def test_eval_keeps_files_that_exist(weights, data, tmp_path):
    arguments = ("eval", "--weights", weights, "--data", data, "--size", 32, "-q")
    table, sheet, curves = tmp_path / "scores.csv", tmp_path / "worst.png", tmp_path / "curves.csv"
    outputs = ("--per-image", table, "--worst", 1, sheet, "--curves", curves)
    for existing in (table, sheet, curves):
        existing.write_bytes(b"precious")
        assert f"{existing}: exists already" in refused(*arguments, *outputs)
        assert existing.read_bytes() == b"precious"
        existing.unlink()
    assert not list(tmp_path.glob("*.csv")) and not list(tmp_path.glob("*.png"))
    table.write_bytes(b"old")
    assert run(*arguments, *outputs, "--overwrite").exit_code == 0
    assert table.read_text().startswith("name,") and sheet.exists() and curves.exists()


def test_eval_bad_input(weights, data, tmp_path, monkeypatch):
    arguments = ("eval", "--weights", weights, "--data", data, "--size", 32)
    assert "--data" in refused("eval", "--weights", weights)
    assert "none" in refused("eval", "--weights", weights, "--data", tmp_path / "none")
    (tmp_path / "empty").mkdir()
    assert "images with masks" in refused("eval", "--weights", weights, "--data", tmp_path / "empty")
    for mask in (data / "masks").iterdir():
        mask.rename(tmp_path / mask.name)
    assert "none of its 5 pictures has a mask" in refused(*arguments)
    assert "not a weight file" in refused("eval", "--weights", data / "images" / "a.jpg", "--data", data)
    assert "multiple of 16" in refused(*arguments[:-1], 40)
    assert "name a .png file" in refused(*arguments, "--worst", 3, tmp_path / "worst.jpg")
    both = ("--per-image", tmp_path / "out.png", "--worst", 3, tmp_path / "out.png")
    assert "both name" in refused(*arguments, *both)
    assert "--worst" in refused(*arguments, "--worst", 0, tmp_path / "worst.png")
    assert "no such folder" in refused(*arguments, "--per-image", tmp_path / "nowhere" / "a.csv")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert "`pip install matplotlib`" in refused(*arguments, "--curves", tmp_path / "curves.png")


def test_eval_refuses_curves_before_any_work(weights, data, tmp_path, monkeypatch):
    monkeypatch.setattr(octsod, "evaluate", None)
    table, picture = tmp_path / "out.csv", tmp_path / "out.png"

    def message(*options):
        return refused("eval", "--weights", weights, "--data", data, *options)

    for name in ("curves.jpg", "curves", ".png"):
        assert f"{tmp_path / name}: curves are drawn as PNG or written as CSV" in message("--curves", tmp_path / name)
    assert "at most one .png and one .csv" in message("--curves", table, "--curves", tmp_path / "other.csv")
    assert "--per-image and --curves both name" in message("--per-image", table, "--curves", table)
    assert "--worst and --curves both name" in message("--worst", 1, picture, "--curves", picture)
    assert "no such folder" in message("--curves", tmp_path / "nowhere" / "a.csv")


def test_eval_folders_with_any_names(weights, data, tmp_path):
    (data / "images").rename(tmp_path / "photos")
    (data / "masks").rename(tmp_path / "truth")
    (tmp_path / "photos" / "raw.cr2").touch()
    folders = ("--images", tmp_path / "photos", "--masks", tmp_path / "truth")
    done = run("eval", "--weights", weights, *folders, "--json", "-q")
    facts = json.loads(done.stdout)
    assert facts["images"] == 5 and facts["data"] == [str(tmp_path / "photos"), str(tmp_path / "truth")]
    assert done.stderr == "Left out, since their formats are not read here (1): raw.cr2\n"
    for arguments in ((), folders[:2], folders[2:], (*folders, "--data", data), ("--data", data, *folders[2:])):
        assert "--data, or by both --images and --masks" in refused("eval", "--weights", weights, *arguments)


def test_eval_counts_masks_without_an_object(weights, data, tmp_path):
    arguments = ("eval", "--weights", weights, "--data", data, "-q")
    assert "no object" not in run(*arguments).stdout
    assert json.loads(run(*arguments, "--json").stdout)["without_object"] == 0
    for stem in "bf":
        with Image.open(data / "masks" / f"{stem}.png") as mask:
            Image.new("L", mask.size).save(data / "masks" / f"{stem}.png")
    done = run(*arguments, "--per-image", tmp_path / "scores.csv")
    assert done.exit_code == 0
    (line,) = [line.split() for line in done.stdout.splitlines() if line.startswith("no object")]
    assert line[2] == "2" and json.loads(run(*arguments, "--json").stdout)["without_object"] == 2
    with open(tmp_path / "scores.csv", encoding="utf-8", newline="") as file:
        assert [row["name"] for row in csv.DictReader(file) if row["object_pixels"] == "0"] == ["b", "f"]


def test_eval_refuses_masks_of_uncertain_meaning(weights, data):
    for mask in (data / "masks").iterdir():
        with Image.open(mask) as opened:
            Image.fromarray(np.asarray(opened) // 255).save(mask)
    done = run("eval", "--weights", weights, "--data", data, "-q")
    assert done.exit_code == 2 and "max F" not in done.output and "none of the 5 pictures" in done.stderr
    assert done.stderr.count("is a mask that holds 0, 1 and nothing above 128") == 5


def test_eval_writes_files_whoever_reads(weights, data, tmp_path, monkeypatch):
    """Before the scores are printed: their reader may be gone. Files that cannot be written do not cost the scores."""
    table, sheet = tmp_path / "scores.csv", tmp_path / "worst.png"
    arguments = ("eval", "--weights", weights, "--data", data, "--per-image", table, "--worst", 1, sheet)
    process = octsod_process(*arguments)
    process.stdout.close()
    process.stderr.close()
    assert process.wait(timeout=120) == 1 and table.exists() and sheet.exists()

    def fail(path, contents):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr("octsod.files.write_atomically", fail)
    sheet.unlink()
    curves = tmp_path / "curves.csv"
    done = run(*arguments, "--curves", curves, "--overwrite", "-q")
    assert done.exit_code == 2 and done.stdout.startswith("max F ") and sheet.exists()
    lost = [f"Error: {path}: cannot be written: {os.strerror(errno.ENOSPC)}." for path in (table, curves)]
    assert done.stderr.splitlines() == lost


def test_eval_shows_compilation(weights, data, monkeypatch):
    shown = []

    @contextlib.contextmanager
    def compilation(progress):
        yield lambda: shown.append(progress.what)

    monkeypatch.setattr("octsod.cli.eval.compilation", compilation)
    assert run("eval", "--weights", weights, "--data", data).exit_code == 0 and shown == ["picture"]
