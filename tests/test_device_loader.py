"""Batches made on a device are those that a host makes, whether pictures are kept there or sent for each batch."""

import json
import os
import threading

import numpy as np
import opaque
import pytest
from test_data import Ramp, write_pairs

import octsod
from octsod import nn, optim
from octsod.backend import Host, default_device
from octsod.data import Choices, DeviceLoader, FolderDataset, Labelled, Loader, Parts, Resident, Sample
from octsod.errors import FileError
from octsod.training import Classification, PictureTask, Saliency, Session, Trainer, resolve, runs, session, train

PICTURES = [str(number) for number in range(6)], []  # names: of those to train on, and none held out
BYTES = 40 * 50 * 4  # of a picture of `Ramp` and its mask


@pytest.fixture(params=["", "simulated"])
def device(request):
    """Whatever device tests run on, if it is not just a processor, else one with the reference's kernels; and the
    simulator. Pictures that theirs are compared with are prepared by the processor."""
    found = default_device()
    if request.param:
        if "OCTSOD_TEST_BACKEND" in os.environ:
            pytest.skip("another backend is tested")
        found = pytest.importorskip("simulated").device
    with octsod.use_backend("cpu"):
        yield opaque.device if found.name in ("cpu", "reference") else found


quick = pytest.mark.parametrize("device", [""], indirect=True)  # for what would take the simulator too long


class Odd:
    """Pictures of many sizes, as data sets have them; some are a pixel high or wide, some are grey."""

    sizes = ((40, 31), (1, 1), (1, 70), (64, 2), (33, 48), (5, 9), (59, 60))

    def __len__(self):
        return 14

    def __getitem__(self, index):
        rng, size = np.random.default_rng(index), self.sizes[index % 7]
        image = rng.integers(0, 256, (*size, 3 if index % 3 else 1), np.uint8) * np.ones(3, np.uint8)
        return Sample(f"odd {index}", image, rng.integers(0, 2, size).astype(bool))


def equal(ours, theirs, device, dtype="float32"):
    """Whether two batches are the same up to rounding; the first is on the device."""
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        a = device.get(a)
        assert a.dtype == (dtype if b.dtype.kind == "f" else b.dtype) and a.shape == b.shape
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * max(np.abs(b).max(), 1))


def numbers_of(loader, device, epoch=0, first=0):
    return [[device.get(array) for array in batch] for batch in loader.epoch(epoch, first)]


def assert_same_bits(ours, theirs):
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        assert [part.tobytes() for part in a] == [part.tobytes() for part in b]


# --- the same batches -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("augmentation", [(1.0, 0.0), (0.4, 0.5)])
@pytest.mark.parametrize("budget", [0, 1 << 30])
def test_batches_are_those_of_the_host(device, augmentation, budget):
    """For the same seed: in every epoch, from any batch on, at every size, of either dtype."""
    task = Saliency("bce", *augmentation)
    options = {"batch_size": 3, "size": [(0, 16), (2, 21), (6, 1)], "seed": 7}
    host = Loader(Odd(), prepare=task.prepare, **options)
    for dtype in ("float32", "float64"):
        more = {"parts": task.parts, "choices": task.choices, "dtype": dtype, "budget": budget}
        ours = DeviceLoader(Odd(), device, **more, **options)
        assert len(ours) == len(host) == 4 and [ours.side(n) for n in range(8)] == [host.side(n) for n in range(8)]
        for number, first in ((0, 0), (1, 0), (1, 3), (0, 4)):
            np.testing.assert_array_equal(ours.order(number), host.order(number))
            batches = zip(ours.epoch(number, first), host.epoch(number, first), strict=True)
            assert sum(1 for a, b in batches if equal(a, b, device, dtype) is None) == 4 - first
    for batch, expected in zip(ours, host, strict=True):
        equal(batch, expected, device, dtype)
    assert ours.next_epoch == 1


def test_without_augmentation(device):
    ours, host = DeviceLoader(Odd(), device, 5, 24, augmented=False), Loader(Odd(), 5, 24, augmented=False)
    for batch, expected in zip(ours, host, strict=True):
        equal(batch, expected, device)


def test_pictures_with_labels(device):
    """No masks; labels are integers on the device."""
    samples = [Labelled(f"odd {index}", Odd()[index].image, index % 3) for index in range(14)]
    task = Classification(("a", "b", "c"))
    host = Loader(samples, 4, 24, prepare=task.prepare)
    for budget in (0, 30_000, 1 << 30):
        ours = DeviceLoader(samples, device, 4, 24, parts=task.parts, choices=task.choices, budget=budget)
        for batch, expected in zip(ours, host.epoch(0), strict=True):
            equal(batch, expected, device)
            assert expected[1].dtype == np.int64 and batch[1].shape == (4,)


def test_what_is_kept_changes_no_bit(device):
    """Nor do threads, nor how many batches are under way."""
    task = Saliency(colour=0.3)
    options = {"batch_size": 4, "size": 19, "seed": 3, "parts": task.parts, "choices": task.choices}
    once = DeviceLoader(Odd(), device, **options)
    expected = [numbers_of(once, device, epoch) for epoch in range(2)]
    for more in ({"budget": 0, "threads": 1}, {"budget": 0, "threads": 4, "ahead": 0}, {"budget": 20_000, "ahead": 5}):
        loader = DeviceLoader(Odd(), device, **options, **more)
        for epoch in range(2):
            assert_same_bits(numbers_of(loader, device, epoch), expected[epoch])


def test_batches_stay_as_they_are(device):
    """Those that were handed out are not written to by later ones, whose bytes go through the same buffers."""
    loader = DeviceLoader(Ramp(), device, 1, 16, seed=3, ahead=2, budget=0)
    batches = [batch for epoch in range(4) for batch in loader.epoch(epoch)]
    again = [batch for epoch in range(4) for batch in numbers_of(loader, device, epoch)]
    assert_same_bits([[device.get(array) for array in batch] for batch in batches], again)
    assert 1 <= len(loader._buffers) <= 3 and min(buffer.size for buffer in loader._buffers) >= BYTES


def test_nobody_waits_for_the_device():
    before = opaque.device.gets
    for budget in (0, 1 << 20):
        assert len(list(DeviceLoader(Odd(), opaque.device, 2, 16, budget=budget))) == 7
    assert opaque.device.gets == before


# --- what is kept -----------------------------------------------------------------------------------------------------


def test_the_budget_is_respected(device):
    """As many pictures as fit; of pictures of one size no byte too many."""
    for budget, kept in ((0, 0), (BYTES - 1, 0), (BYTES, 1), (3 * BYTES + 5, 3), (6 * BYTES, 6), (1 << 30, 6)):
        seen = []
        resident = Resident(Ramp(), device, budget=budget, on_progress=lambda *counts, seen=seen: seen.append(counts))
        assert resident.bytes.shape == (min(budget, 6 * BYTES),)
        assert (resident.starts >= 0).sum() == kept and seen == [(n, kept) for n in range(1, kept + 1)]
        data = device.get(resident.bytes)
        for index in range(kept):
            record = data[resident.starts[index] :][:BYTES]
            sample = Ramp()[index]
            assert record.tobytes() == sample.image.tobytes() + sample.mask.tobytes()


@quick
def test_sizes_that_vary_are_estimated(device):
    """From some of many; all of them fit, with little left over."""

    class Many(Odd):
        def __len__(self):
            return 700

        def __getitem__(self, index):
            height = 3 + index * 7919 % 13
            return Sample("", np.zeros((height, 5, 3), np.uint8), np.zeros((height, 5), np.uint8))

    resident = Resident(Many(), device)
    assert (resident.starts >= 0).all()
    needed = sum(20 * (3 + index * 7919 % 13) for index in range(700))
    assert needed <= resident.bytes.size < 1.15 * needed


def test_pictures_are_decoded_once(device):
    class Counting(Ramp):
        def __init__(self):
            self.read = []

        def __getitem__(self, index):
            self.read.append(index)
            return super().__getitem__(index)

    for budget, again in ((6 * BYTES, 0), (4 * BYTES, 2 * 2)):
        samples = Counting()
        loader = DeviceLoader(samples, device, 2, 16, budget=budget)
        assert samples.read == [] and loader.load() is loader.load()
        before = len(samples.read)
        list(loader.epoch(0))
        list(loader.epoch(1))
        assert len(samples.read) - before == again
    assert not any(thread.name.startswith("octsod-data") for thread in threading.enumerate())


@pytest.mark.parametrize("threads", [1, 3])
def test_threads_end_with_the_epoch(device, threads):
    epoch = DeviceLoader(Ramp(), device, 1, 16, threads=threads, ahead=4, budget=2 * BYTES).epoch(0)
    next(epoch)
    epoch.close()
    assert not any(thread.name.startswith("octsod-data") for thread in threading.enumerate())


# --- faults -----------------------------------------------------------------------------------------------------------


def test_a_broken_picture_names_itself(device, tmp_path):
    dataset = FolderDataset(write_pairs(tmp_path))
    (tmp_path / "images" / "b.jpg").write_bytes(b"nothing")
    with pytest.raises(FileError, match=r"b\.jpg"):
        Resident(dataset, device)
    write_pairs(tmp_path / "again")
    dataset = FolderDataset(tmp_path / "again")
    loader = DeviceLoader(dataset, device, 3, 32, budget=0)
    loader.load()
    (tmp_path / "again" / "images" / "b.jpg").write_bytes(b"nothing")
    with pytest.raises(FileError, match=r"b\.jpg"):
        next(loader.epoch(0))
    with pytest.raises(ValueError, match="prepare_pair: `sample` has a mask for cat that"):
        Resident([Sample("cat", np.zeros((3, 4, 3), np.uint8), np.ones((3, 4), np.uint8))], device)
    assert not any(thread.name.startswith("octsod-data") for thread in threading.enumerate())


def test_what_does_not_fit_together_is_refused(device):
    image, mask = np.zeros((3, 4, 3), np.uint8), np.zeros((3, 4), np.uint8)
    for parts, error, words in (
        (lambda s: (image, mask), TypeError, "`parts` returns a tuple; expected `Parts`"),
        (lambda s: Parts(image[..., 0]), ValueError, r"`image` is uint8 \(3, 4\); expected uint8 \(H, W, 3\)"),
        (lambda s: Parts(image, mask[:2]), ValueError, r"`mask` is uint8 \(2, 4\); expected uint8 \(3, 4\)"),
        (lambda s: Parts(image, mask if s else None), ValueError, "a picture with a mask; expected masks for all"),
    ):
        with pytest.raises(error, match=words):
            Resident([0, 1], device, parts)
    for rows in ((-1, 2), (2, 2), (0, 0), (0, 4)):
        part = Choices(rows, (0, 4))
        loader = DeviceLoader([0], device, 1, 8, parts=lambda s: Parts(image), choices=lambda *_, part=part: part)
        with pytest.raises(ValueError, match=f"`choices` keeps {rows[1]} pixels from {rows[0]} on; expected a part"):
            next(loader.epoch(0))
    for options in ({"batch_size": 0}, {"batch_size": 7}, {"seed": -1}, {"threads": 0}, {"size": 0}, {"budget": -1}):
        with pytest.raises(ValueError, match=f"DeviceLoader: `{next(iter(options))}`"):
            DeviceLoader(Ramp(), device, **{"batch_size": 2, **options})
    for loader, numbers in ((Loader(Ramp(), 2), (-1,)), (DeviceLoader(Ramp(), device, 2), (0, -1))):
        with pytest.raises(ValueError, match="at least 0"):
            loader.epoch(*numbers)


# --- in a training ----------------------------------------------------------------------------------------------------


def test_a_run_learns_from_them(device, tmp_path):
    """As from batches of the host; and it goes on where it stopped, bit for bit."""

    def run_with(loader, name, stop=lambda: False):
        """The trainer after a run, and the losses in its log."""
        octsod.manual_seed(0)
        with octsod.use_backend(device):
            model = nn.Conv2d(3, 1, 3, padding=1)
        trainer = Trainer(model, Saliency(), optim.SGD(model.parameters(), 0.05, momentum=0.9), total=7)
        if (tmp_path / name).exists():
            checkpoint = runs.read_checkpoint(tmp_path / name)
            checkpoint.restore(trainer)
            run = runs.Run.resume(tmp_path / name, {}, PICTURES, checkpoint)
        else:
            run = runs.Run.create(tmp_path / name, {}, PICTURES)
        with run:
            train(trainer, loader, run, stop=stop)
        lines = (tmp_path / name / "log.jsonl").read_text().splitlines()
        return trainer, [json.loads(line)["loss"] for line in lines]

    def on_device():
        return DeviceLoader(Ramp(), device, 2, 32, seed=3, budget=4 * BYTES)

    _, expected = run_with(Loader(Ramp(), 2, 32, seed=3), "host")
    trainer, losses = run_with(on_device(), "device")
    assert len(losses) == 7 and losses == pytest.approx(expected, rel=1e-5)
    asked = iter(range(100))
    run_with(on_device(), "stopped", lambda: next(asked) > 3)
    resumed, again = run_with(on_device(), "stopped")
    assert again == losses
    for name, array in resumed.state_dict().items():
        assert array.tobytes() == trainer.state_dict()[name].tobytes()


def expected_loader(device):
    return Loader if isinstance(device, Host) else DeviceLoader


@quick
def test_a_session_uses_them_where_the_network_is_on_a_device(device, tmp_path):
    settings = resolve({"batch_size": 2, "size": 32, "width": 0.2, "steps": 1, "data": write_pairs(tmp_path / "set")})
    for where, kind in (("cpu", Loader), (device.name, expected_loader(device))):
        made = Session({**settings, "device": where}, tmp_path / where)
        assert type(made.loader) is kind and made.loader.batch_size == 2 and made.loader.side(0) == 32
        made.run.__exit__(None, None, None)


def test_a_task_with_a_preparation_of_its_own_keeps_it(device):
    """It says what batches are, on any device."""

    class Plain(Saliency):
        def prepare(self, sample, size, generator=None):
            return super().prepare(sample, size)

    with octsod.use_backend(device):
        model = octsod.csnet(0.2)
    settings = resolve({"batch_size": 2, "size": 32, "width": 0.2, "steps": 1})
    loaders = [session._loader(settings, Ramp(), model, task, 1) for task in (Plain(), Saliency())]
    assert list(map(type, loaders)) == [Loader, expected_loader(device)]


def test_a_picture_task_says_what_it_lacks():
    with pytest.raises(TypeError, match="PictureTask needs a method `parts`"):
        PictureTask().prepare(Ramp()[0], 16)
    with pytest.raises(TypeError, match="PictureTask needs a method `choices`"):
        PictureTask().choices((3, 4), np.random.default_rng(0))
