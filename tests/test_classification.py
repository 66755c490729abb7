"""Pictures with classes: how data sets are found, a CSNet that tells classes apart, what it takes over from another."""

import json

import numpy as np
import pytest
from commands import refused, run
from PIL import Image

import octsod
from octsod import training
from octsod.data import ClassDataset, Labelled, random_crop
from octsod.data.classes import find_parts
from octsod.errors import FileError, OctsodError
from octsod.evaluation import evaluate_classes
from octsod.pictures.confusion import confusion_matrix
from octsod.training import SettingsError, resolve

COLOURS = {"blue": (40, 60, 220), "green": (50, 200, 60), "red": (220, 50, 40)}


def write_classes(root, count=4, classes=COLOURS):
    """Pictures of a colour, in folders named after it."""
    generator = np.random.default_rng(0)
    for name in classes:
        (root / name).mkdir(parents=True)
        for k in range(count):
            image = np.clip(COLOURS[name] + generator.normal(0, 30, (36, 40, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(image).save(root / name / f"{name}{k}.png")
    return root


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_classes(tmp_path_factory.mktemp("classes"))


SMALL = {"task": "classify", "batch_size": 3, "size": 32, "width": 0.2, "threads": 1}


# --- data sets --------------------------------------------------------------------------------------------------------


def test_a_folder_of_folders(data, tmp_path):
    dataset = ClassDataset(data)
    assert dataset.classes == ("blue", "green", "red") and len(dataset) == 12
    assert dataset.labels == [0] * 4 + [1] * 4 + [2] * 4 and dataset.names[5].endswith("green1.png")
    name, image, label = dataset[8]
    assert name == dataset.names[8] and image.shape == (36, 40, 3) and label == 2
    assert ClassDataset(data, ("red", "blue", "green")).labels == [1] * 4 + [2] * 4 + [0] * 4
    with pytest.raises(FileError, match="holds the class 'blue'; expected 'green', 'red'"):
        ClassDataset(data, ("green", "red"))
    write_classes(tmp_path / "one", classes=("red",))
    with pytest.raises(FileError, match="holds one class only, red"):
        ClassDataset(tmp_path / "one")
    (tmp_path / "empty" / "a").mkdir(parents=True)
    with pytest.raises(FileError, match="holds no pictures in folders named after"):
        ClassDataset(tmp_path / "empty")
    with pytest.raises(FileError, match="none"):
        ClassDataset(tmp_path / "none")


@pytest.mark.parametrize("header", ["", "name,class\n", "\ufeffFile,Label\n"])
def test_a_csv_file(data, tmp_path, header):
    """By path or by stem; names with commas are quoted."""
    write_classes(tmp_path / "set")
    (tmp_path / "set" / "red" / "red0.png").rename(tmp_path / "set" / "red" / "red, 0.png")
    file = tmp_path / "set" / "labels.csv"
    file.write_text(header + '"red/red, 0.png",warm\nblue1,cold\n\ngreen/green2.png,cold\n', encoding="utf-8")
    dataset = ClassDataset(file)
    assert dataset.classes == ("cold", "warm") and dataset.labels == [0, 0, 1]
    names = [dataset[i].name.replace("\\", "/") for i in range(3)]
    assert names == ["blue/blue1.png", "green/green2.png", "red/red, 0.png"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("red/red0.png\n", "line 1 is not a name and a class"),
        ("red/red0.png,warm\nnone.png,cold\n", "line 2 names none.png, but there is no picture of that name"),
        ("red0,warm\nred/red0.png,cold\n", "lines 1 and 2 both name red/red0.png"),
        ("red0,\n", "line 1 is not a name and a class"),
        ("", "holds no pictures"),
    ],
)
def test_csv_faults(tmp_path, text, words):
    file = write_classes(tmp_path / "set") / "labels.csv"
    file.write_text(text)
    with pytest.raises(FileError) as caught:
        ClassDataset(file)
    assert words in str(caught.value) and str(file) in str(caught.value)
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(FileError, match="is no CSV file"):
        ClassDataset(file)


def test_usual_layouts_have_their_own_validation(data, tmp_path):
    assert find_parts(data) == (data, None)
    write_classes(tmp_path / "train")
    assert find_parts(tmp_path) == (tmp_path, None)
    write_classes(tmp_path / "val", 1)
    assert find_parts(tmp_path) == (tmp_path / "train", tmp_path / "val")
    opened = training.open_data(resolve({**SMALL, "data": tmp_path}))
    assert (len(opened.training), len(opened.held_out), opened.classes) == (12, 3, ("blue", "green", "red"))
    opened = training.open_data(resolve({**SMALL, "data": tmp_path / "train", "val": data}))
    assert (len(opened.training), len(opened.held_out)) == (12, 12)
    opened = training.open_data(resolve({**SMALL, "data": data}))
    assert (len(opened.training), len(opened.held_out)) == (9, 3), "one of each class"
    assert sorted(opened.held_out[k].label for k in range(3)) == [0, 1, 2]
    (tmp_path / "pairs").mkdir()
    for name in ("images", "masks"):
        (data / "red").rename(tmp_path / "pairs" / name)
        with pytest.raises(FileError, match=r"pictures and their masks|holds one class"):
            ClassDataset(tmp_path / "pairs")
        (tmp_path / "pairs" / name).rename(data / "red")


def test_random_crops_are_parts_of_the_picture():
    image = np.arange(30 * 50 * 3, dtype=np.int64).reshape(30, 50, 3)
    generator, mirrored, areas = np.random.default_rng(0), 0, []
    for _ in range(200):
        part = random_crop(image, generator)
        areas.append(part.shape[0] * part.shape[1] / 1500)
        mirrored += part.shape[1] > 1 and part[0, 0, 0] > part[0, -1, 0]
        part = part[:, ::-1] if part[0, 0, 0] > part[0, -1, 0] else part
        top, left = divmod(int(part[0, 0, 0]) // 3, 50)
        np.testing.assert_array_equal(part, image[top : top + part.shape[0], left : left + part.shape[1]])
    assert 0.3 < min(areas) < 0.45 and 0.8 < max(areas) <= 1 and 70 < mirrored < 130
    assert random_crop(np.zeros((1, 1, 3), np.uint8), generator).shape == (1, 1, 3)


# --- networks ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", ["csnet", "extractor", "vanilla"])
def test_a_classifier_shares_its_parts_with_a_network_for_saliency(variant):
    """It leads to the lowest resolution; all but the last layer can be taken over."""
    octsod.manual_seed(0)
    salience, classifier = octsod.csnet(0.3, variant=variant), octsod.csnet(0.3, variant=variant, classes=7)
    assert tuple(classifier(octsod.Tensor(np.zeros((2, 3, 32, 48), np.float32))).shape) == (2, 7)
    assert classifier.take_over(salience) == ["classifier"]
    ours, theirs = classifier.state_dict(), salience.state_dict()
    shared = [name for name in ours if name in theirs and not name.startswith("classifier")]
    assert len(shared) > 100 and all((ours[name] == theirs[name]).all() for name in shared)
    if variant == "csnet":
        assert (ours["fusion.merge.norms.2.weight"] == theirs["fusion.merge.norms.0.weight"]).all()
        *_, merge, last = classifier.configuration.layers()
        assert merge.outputs == (0, 0, merge.outputs[2]) and (last.kind, last.scale) == ("linear", 3)
    parameters = sum(p.size for p in classifier.parameters())
    assert octsod.complexity(classifier).parameters == parameters


def test_scores_of_a_classifier_equal_their_definition(data, monkeypatch):
    octsod.manual_seed(0)
    model = octsod.csnet(0.2, classes=3)
    model.labels, model.size = tuple(COLOURS), 32
    logits = np.random.default_rng(0).standard_normal((12, 3))
    seen = []

    def forward(x):
        seen.append(x.shape[0])
        return octsod.Tensor(logits[sum(seen[:-1]) : sum(seen)].astype(np.float32))

    model.forward = forward
    scores = evaluate_classes(model, data, batch_size=5)
    truth = np.repeat([0, 1, 2], 4)
    expected = np.zeros((3, 3), int)
    for label, guess in zip(truth, logits.argmax(axis=1), strict=True):
        expected[label, guess] += 1
    assert seen == [5, 5, 2] and (scores.confusion == expected).all() and scores.images == 12
    assert scores.top1 == pytest.approx(np.trace(expected) / 12)
    np.testing.assert_allclose(scores.recall, np.diag(expected) / 4)
    log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    assert scores.cross_entropy == pytest.approx(-log_p[np.arange(12), truth].mean(), rel=1e-6)
    assert model.training
    with pytest.raises(ValueError, match="`model` is a csnet without classes"):
        evaluate_classes(octsod.csnet(0.2), data)
    model.forward = lambda x: octsod.Tensor(np.full((x.shape[0], 3), np.nan, np.float32))
    with pytest.raises(OctsodError, match="not finite"):
        evaluate_classes(model, data)


def test_a_classifier_learns_colours(data, tmp_path):
    settings = resolve({**SMALL, "data": data, "val": data, "steps": 40, "lr": 2e-2})
    with pytest.warns(UserWarning, match=r"12 of the 12 pictures to validate on are also trained on, such as .*\.png;"):
        assert training.conduct(settings, tmp_path / "run")
    folder = tmp_path / "run"
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    best = max(line["top1"] for line in lines if "best" in line)
    assert best > 0.9
    model = octsod.load(folder / "weights" / "best.safetensors")
    assert model.labels == ("blue", "green", "red") and model.size == 32
    assert evaluate_classes(model, data).top1 == best
    assert {path.name for path in (folder / "plots").iterdir()} == {"confusion.png", "curves.png"}

    result = run("eval", "--weights", folder / "weights" / "best.safetensors", "--data", data, "--json", "-q")
    assert result.exit_code == 0, result.output
    facts = json.loads(result.output)
    assert facts["top1"] == best and np.sum(facts["confusion"]) == 12 and facts["classes"] == ["blue", "green", "red"]
    result = run("eval", "--weights", folder / "weights" / "best.safetensors", "--data", data, "-q")
    assert "top-1" in result.output and "green" in result.output
    curves = ("--curves", tmp_path / "curves.csv")
    line = refused("eval", "--weights", folder / "weights" / "best.safetensors", "--data", data, *curves)
    assert "--worst and --curves are for networks that find salient objects" in line
    picture = data / "red" / "red0.png"
    line = refused("predict", picture, "--weights", folder / "weights" / "best.safetensors", "-o", tmp_path / "m.png")
    assert "classes" in line

    # From a network of classes to one of salient objects and back, with what is common to both.
    for name in ("green", "red"):
        write = tmp_path / "two" / name
        write.mkdir(parents=True)
        for source in (data / name).iterdir():
            (write / source.name).write_bytes(source.read_bytes())
    init = folder / "weights" / "best.safetensors"
    given = {"task": "classify", "batch_size": 3, "size": 32, "threads": 1, "init": init, "steps": 1}
    with training.Session(resolve({**given, "data": tmp_path / "two"}), tmp_path / "next") as session:
        assert session.trainer.model.configuration.classes == 2 and session.trainer.model.labels == ("green", "red")
        ours, theirs = session.trainer.model.state_dict(), model.state_dict()
        assert (ours["extractor.stages.0.0.mix.weight"] == theirs["extractor.stages.0.0.mix.weight"]).all()
    with pytest.raises(SettingsError, match="leaves nothing to train"):
        training.Session(resolve({**given, "data": data, "freeze": "extractor,fuse,classifier"}), tmp_path / "none")
    frozen = resolve({**given, "data": data, "freeze": "extractor,fuse"})
    with training.Session(frozen, tmp_path / "frozen") as session:
        learned = [name for name, p in session.trainer.model.named_parameters() if p.requires_grad]
        assert learned == ["classifier.weight", "classifier.bias"] and session.conduct()


def test_other_classes_and_parts_are_refused(data, tmp_path):
    with pytest.raises(SettingsError, match="`task` classify needs `data`"):
        resolve({"task": "classify"})
    for name, value in (("loss", "bce+iou"), ("side_outputs", True), ("learn_channels", 3)):
        with pytest.raises(SettingsError, match=f"`{name}` is for saliency"):
            resolve({**SMALL, "data": data, name: value})
    with pytest.raises(SettingsError, match=r"stage9 is no part of the network; known are .*stage4.*fuse"):
        training.Session(resolve({**SMALL, "data": data, "freeze": ["stage9"]}), tmp_path / "a")
    with pytest.raises(SettingsError, match="without `init` no statistics to use"):
        training.Session(resolve({**SMALL, "data": data, "freeze": "extractor"}), tmp_path / "a")
    assert not (tmp_path / "a").exists()
    settings = resolve({**SMALL, "data": data, "val": data, "steps": 1})
    training.conduct(settings, tmp_path / "run")
    (data / "red").rename(data / "rosy")
    try:
        checkpoint = training.read_checkpoint(tmp_path / "run")
        with pytest.raises(FileError, match="other classes"):
            training.Session(resolve({"steps": 2}, settings), tmp_path / "run", checkpoint=checkpoint)
    finally:
        (data / "rosy").rename(data / "red")


def test_the_confusion_matrix_is_drawn_for_any_number_of_classes():
    few = confusion_matrix(np.array([[3, 1], [0, 4]]), ("a", "a very long name of a class indeed"))
    many = confusion_matrix(np.eye(300, dtype=int), [str(k) for k in range(300)])
    assert few.dtype == many.dtype == np.uint8 and few.shape[2] == 3 and max(many.shape) < 2000
    assert (few.reshape(-1, 3) == (38, 110, 200)).all(axis=1).any()


def test_classes_without_names_are_numbers(tmp_path):
    for number, name in enumerate(("red", "green")):
        (write_classes(tmp_path / "set", 2, (name,)) / name).rename(tmp_path / "set" / str(number))
    model = octsod.csnet(0.2, classes=2)
    for parameter in model.parameters():  # an untrained network may overflow
        parameter.data = np.zeros(parameter.shape, np.float32)
    octsod.save(model, tmp_path / "w.safetensors")
    result = run("eval", "--weights", tmp_path / "w.safetensors", "--data", tmp_path / "set", "--json", "-q")
    assert result.exit_code == 0 and json.loads(result.output)["classes"] == ["0", "1"], result.output


IMAGE = np.zeros((20, 30, 3), np.uint8)


@pytest.mark.parametrize(
    ("sample", "words"),
    [
        ((IMAGE, 0), r"has an item that is a tuple; expected a `Labelled`"),
        ({"image": IMAGE, "label": 0}, r"has an item that is a dict"),
        (Labelled("cat", IMAGE, 1.7), r"label of cat` is 1\.7; expected an integer"),
        (Labelled("cat", IMAGE, float("nan")), r"label of cat` is nan; expected an integer"),
        (Labelled("cat", IMAGE, "dog"), r"label of cat` is 'dog'; expected an integer"),
        (Labelled("cat", IMAGE, True), r"label of cat` is True; expected an integer"),
        (Labelled("cat", IMAGE, -1), r"label of cat` is -1; expected at least 0"),
        (Labelled("cat", IMAGE, [0, 1]), r"label of cat` is \[0, 1\]; expected an integer"),
        (Labelled("cat", IMAGE[..., 0], 0), r"has a picture cat that is uint8 \(20, 30\)"),
        (Labelled("cat", IMAGE / 255, 0), r"has a picture cat that is float64"),
        (Labelled("cat", np.ma.masked_array(IMAGE, IMAGE == 0), 0), r"has a picture cat that is uint8 .* with a mask"),
    ],
)
def test_samples_that_make_no_sense(sample, words):
    model = octsod.csnet(0.2, classes=3)
    prepare = training.Classification(("a", "b", "c")).prepare
    for call in (
        lambda: prepare(sample, 32), lambda: prepare(sample, 32, np.random.default_rng(0)),
        lambda: evaluate_classes(model, [sample], 32),
    ):  # fmt: skip
        with pytest.raises((ValueError, TypeError), match=words):
            call()
