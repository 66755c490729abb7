"""Data sets are found as people download them; batches and hold-out depend on the seed alone."""

import contextvars
import threading
from typing import ClassVar

import numpy as np
import pytest
from PIL import Image

from octsod.data import LAYOUTS, FolderDataset, Loader, Sample, Subset, augment, hold_out
from octsod.data.augmentation import pair_choices
from octsod.data.images import prepare
from octsod.errors import FileError


def write_pairs(root, images="images", masks="masks", stems=("a", "b", "c"), size=(40, 30)):
    """Pictures with a bright disc and its mask, `size` = (width, height)."""
    (root / images).mkdir(parents=True)
    (root / masks).mkdir(parents=True)
    generator = np.random.default_rng(0)
    y, x = np.mgrid[: size[1], : size[0]]
    for stem in stems:
        cx, cy = generator.integers(8, 22, 2)
        disc = (x - cx) ** 2 + (y - cy) ** 2 < 49
        image = generator.integers(0, 80, (size[1], size[0], 3)) + 150 * disc[..., None]
        Image.fromarray(image.astype(np.uint8)).save(root / images / f"{stem}.jpg")
        Image.fromarray((255 * disc).astype(np.uint8)).save(root / masks / f"{stem}.png")
    return root


RAMP_MASKS = (0, 150, 170, 190, 210, 230)


class Ramp:
    """Six samples whose pixels tell where they are and which sample they belong to."""

    def __len__(self):
        return 6

    def __getitem__(self, index):
        image = np.zeros((40, 50, 3), np.uint8)
        image[..., 0], image[..., 1] = np.arange(50), np.arange(40)[:, None]
        image[..., 2] = index
        return Sample(str(index), image, np.full((40, 50), RAMP_MASKS[index], np.uint8))


@pytest.mark.parametrize("names", [*LAYOUTS, ("DUTS-TR-Image", "DUTS-TR-Mask"), ("images", "GT")])
@pytest.mark.parametrize("below", ["", "inner"])
def test_layouts(tmp_path, names, below):
    write_pairs(tmp_path / below, *names)
    (tmp_path / "__MACOSX" / "images").mkdir(parents=True)
    (tmp_path / "__MACOSX" / "masks").mkdir()
    dataset = FolderDataset(str(tmp_path))
    assert len(dataset) == 3 and dataset.images == tmp_path / below / names[0] and not dataset.unpaired
    name, image, mask = dataset[1]
    assert name == "b" and image.shape == (30, 40, 3) and mask.shape == (30, 40)
    assert set(np.unique(mask)) == {0, 255}


def test_leftovers_and_foreign_files(tmp_path):
    write_pairs(tmp_path)
    (tmp_path / "masks" / "b.png").rename(tmp_path / "masks" / "z.png")
    (tmp_path / "images" / "notes.txt").touch()
    (tmp_path / "images" / "._a.jpg").touch()
    dataset = FolderDataset(tmp_path)
    assert [image.stem for image, _ in dataset.pairs] == ["a", "c"]
    assert [path.name for path in dataset.unpaired] == ["b.jpg", "z.png"]


def test_folder_faults(tmp_path):
    def message(root):
        with pytest.raises(FileError) as caught:
            FolderDataset(root)
        assert str(root) in str(caught.value) and "\n" not in str(caught.value)
        return str(caught.value)

    message(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    assert "images with masks" in message(tmp_path / "empty")
    write_pairs(tmp_path / "two" / "x")
    write_pairs(tmp_path / "two" / "y")
    assert "more than one" in message(tmp_path / "two")
    write_pairs(tmp_path / "apart")
    for mask in (tmp_path / "apart" / "masks").iterdir():
        mask.rename(mask.with_stem(mask.stem + "_mask"))
    assert "none of its 3 pictures has a mask" in message(tmp_path / "apart")
    write_pairs(tmp_path / "twins")
    (tmp_path / "twins" / "images" / "a.png").touch()
    assert "a.jpg and a.png" in message(tmp_path / "twins")


def test_sample_faults(tmp_path):
    write_pairs(tmp_path)
    Image.new("L", (30, 30)).save(tmp_path / "masks" / "a.png")
    (tmp_path / "images" / "b.jpg").write_bytes(b"nothing")
    dataset = FolderDataset(tmp_path)
    with pytest.raises(FileError, match=r"a\.png: the mask is 30x30, but its picture a\.jpg is 40x30"):
        dataset[0]
    Image.new("L", (40, 30)).save(tmp_path / "masks" / "a.png")
    with pytest.raises(FileError, match=r"b\.jpg"):
        next(iter(Loader(dataset, 3, 32)))
    assert not any(thread.name.startswith("octsod-data") for thread in threading.enumerate())


@pytest.mark.parametrize(("count", "held"), [(2, 1), (29, 1), (30, 2), (240, 12), (10_553, 500)])
def test_hold_out(count, held):
    """A twentieth, within bounds; nothing is lost or doubled; the seed decides which."""

    def parts(seed):
        return [part.indices for part in hold_out(range(count), seed)]

    training, validation = parts(3)
    assert len(validation) == held and sorted(training + validation) == list(range(count))
    assert training == sorted(training) and validation == sorted(validation)
    assert parts(3) == [training, validation]
    assert count < 100 or any(parts(seed)[1] != validation for seed in range(4, 8))


def test_subset_keeps_names(tmp_path):
    dataset = FolderDataset(write_pairs(tmp_path))
    part = Subset(dataset, [2, 0])
    assert part.names == ["c", "a"] and len(part) == 2 and part[0].name == "c"
    assert Subset(Ramp(), [4]).names == ["4"] and Subset(Ramp(), [4])[0].name == "4"
    with pytest.raises(ValueError, match="at least 2"):
        hold_out(Subset(dataset, [1]))


def test_augmentation():
    """Crops of 0..14 and 1..15 pixels, half of all flipped, half of those vertically, picture and mask alike."""
    image = np.zeros((100, 120, 3), np.uint8)
    image[..., 0], image[..., 1] = np.arange(120), np.arange(100)[:, None]
    mask = image[..., 0] ^ image[..., 1]
    flips, firsts, lasts = {(False, False): 0, (True, False): 0, (False, True): 0}, set(), set()
    count = 2000
    for seed in range(count):
        a, b = augment(image, mask, np.random.default_rng(seed))
        np.testing.assert_array_equal(a[..., 0] ^ a[..., 1], b)
        xs, ys = a[0, :, 0].astype(int), a[:, 0, 1].astype(int)
        flips[xs[0] > xs[-1], ys[0] > ys[-1]] += 1
        firsts |= {min(xs), min(ys)}
        lasts |= {119 - max(xs), 99 - max(ys)}
        assert (np.abs(np.diff(xs)) == 1).all() and (np.abs(np.diff(ys)) == 1).all()
    assert firsts == set(range(15)) and lasts == set(range(1, 16))
    assert abs(flips[False, False] / count - 0.5) < 0.05
    assert abs(flips[True, False] / count - 0.25) < 0.05


@pytest.mark.parametrize("size", [(1, 1), (1, 70), (2, 3), (9, 5), (59, 60)])
def test_augmentation_leaves_something(size):
    image = np.zeros((*size, 3), np.uint8)
    for seed in range(50):
        a, b = augment(image, image[..., 0], np.random.default_rng(seed))
        assert a.shape[:2] == b.shape and all(2 * n >= m - 1 and n > 0 for n, m in zip(b.shape, size, strict=True))


def test_batches_depend_on_the_seed_alone():
    def batches(**options):
        loader = Loader(Ramp(), 2, 16, **{"seed": 7, **options})
        return [batch for epoch in range(2) for batch in loader.epoch(epoch)]

    once = batches(threads=1, ahead=0)
    assert len(once) == 6
    for other in (batches(threads=4, ahead=3), batches(threads=3, ahead=1)):
        for a, b in zip(once, other, strict=True):
            np.testing.assert_array_equal(a[0], b[0])
            np.testing.assert_array_equal(a[1], b[1])
    assert any((a[0] != b[0]).any() for a, b in zip(once, batches(seed=8), strict=True))
    x, y = once[0]
    assert x.shape == (2, 3, 16, 16) and y.shape == (2, 1, 16, 16) and x.dtype == y.dtype == np.float32
    for epoch in range(2):  # each picture once; the order changes
        values = [round(float(v) * 255) for batch in once[3 * epoch : 3 * epoch + 3] for v in batch[1][:, 0, 0, 0]]
        assert sorted(values) == list(RAMP_MASKS)
    assert (Loader(Ramp(), 2).order(0) != Loader(Ramp(), 2).order(1)).any()
    later = list(Loader(Ramp(), 2, 16, seed=7).epoch(1, first=2))
    assert len(later) == 1
    np.testing.assert_array_equal(later[0][0], once[5][0])


def test_loader_without_augmentation():
    loader = Loader(Ramp(), 4, 16, augmented=False)
    assert len(loader) == 1  # what does not fill a batch is left out
    (batch,) = loader.epoch(0)
    for i in range(4):
        np.testing.assert_array_equal(batch[0][i], prepare(Ramp()[i].image, 16))
        np.testing.assert_allclose(batch[1][i], RAMP_MASKS[i] / 255, rtol=1e-6)
    for options in ({"batch_size": 0}, {"batch_size": 7}, {"seed": -1}, {"threads": 0}, {"size": 0}):
        with pytest.raises(ValueError, match="Loader"):
            Loader(Ramp(), **options)


def test_iterating_is_an_epoch_each_time():
    loader = Loader(Ramp(), 2, 16, seed=7)
    assert len(list(loader)) == len(loader) == 3
    for number in (1, 2):  # the next one each time, also where the last one was left in the middle
        for batch, expected in zip(loader, loader.epoch(number), strict=True):
            np.testing.assert_array_equal(batch[0], expected[0])
        assert loader.next_epoch == number + 1
    next(iter(loader))
    np.testing.assert_array_equal(next(iter(loader))[0], next(loader.epoch(4))[0])
    for arguments in ((-1,), (0, -1)):
        with pytest.raises(ValueError, match="at least 0"):
            loader.epoch(*arguments)


def test_threads_work_in_the_context_of_the_epoch():
    """A backend that is chosen in a context is in use in them, too, whatever is in use when a batch is asked for."""
    variable = contextvars.ContextVar("variable", default="default")

    class Noting(Ramp):
        seen: ClassVar = set()

        def __getitem__(self, index):
            self.seen.add(variable.get())
            return super().__getitem__(index)

    token = variable.set("at its start")
    epoch = Loader(Noting(), 2, 16, threads=3).epoch(0)
    variable.reset(token)
    assert len(list(epoch)) == 3 and Noting.seen == {"at its start"}


def test_threads_end_with_the_epoch():
    epoch = Loader(Ramp(), 1, 16).epoch(0)
    next(epoch)
    epoch.close()
    assert not any(thread.name.startswith("octsod-data") for thread in threading.enumerate())


def test_stronger_augmentation():
    """Parts of the picture with their masks; colours between black and white; by default, neither."""
    from octsod.data import prepare_pair, recolour

    sample, plain = Ramp()[4], prepare_pair(Ramp()[4], 16, np.random.default_rng(3))
    same = prepare_pair(sample, 16, np.random.default_rng(3), 1.0, 0.0)
    assert all((a == b).all() for a, b in zip(plain, same, strict=True))
    mask = np.arange(40 * 50, dtype=np.int64).reshape(40, 50) // 8
    sample = Sample("", np.repeat(mask[..., None], 3, axis=2).astype(np.uint8), mask.astype(np.uint8))
    spans = []
    for seed in range(50):
        x, y = prepare_pair(sample, 40, np.random.default_rng(seed), scale_crop=0.3)
        grey = x[0] * 0.229 + 0.485
        np.testing.assert_allclose(grey, y[0], atol=1e-6, err_msg="picture and mask are not cut alike")
        spans.append(np.ptp(y))
    assert min(spans) < 0.45 * max(spans)

    x = prepare(np.random.default_rng(0).integers(0, 256, (8, 9, 3), np.uint8), 8)
    deviation, mean = np.array([0.229, 0.224, 0.225])[:, None, None], np.array([0.485, 0.456, 0.406])[:, None, None]
    drawn = [pair_choices((40, 50), np.random.default_rng(seed), colour=0.5).factors for seed in range(50)]
    for factors in zip(*drawn, strict=True):
        assert 0.5 <= min(factors) < 0.7 and 1.3 < max(factors) <= 1.5
    colours = x * deviation + mean
    grey = np.tensordot([0.299, 0.587, 0.114], colours, 1)
    for factors, expected in (
        ((1, 1, 1), colours), ((1.4, 1, 1), 1.4 * colours), ((0.8, 0.6, 1), 0.8 * (0.6 * colours + 0.4 * grey.mean())),
        ((1, 1, 0.5), 0.5 * colours + 0.5 * grey),
    ):  # fmt: skip
        found = recolour(x, factors)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found * deviation + mean, expected.clip(0, 1), atol=2e-6)
