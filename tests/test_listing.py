"""What a folder holds is found, links included; nothing that looks like a picture vanishes without a word."""

import os
import shutil
import unicodedata

import numpy as np
import pytest
from commands import run
from PIL import Image
from test_data import write_pairs

from octsod import Tensor, csnet, manual_seed, save
from octsod.data import ClassDataset, FolderDataset
from octsod.data.formats import suffixes
from octsod.data.images import read_image
from octsod.data.listing import describe_not_taken, find_pictures
from octsod.errors import FileError
from octsod.evaluation import evaluate_classes

COMPOSED, APART = (unicodedata.normalize(form, "caf\u00e9") for form in ("NFC", "NFD"))


def touched(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def found(root, *arguments, **options):
    pictures, not_taken, _, failures = find_pictures(root, *arguments, **options)
    names = ([str(path.relative_to(root)) for path in paths] for paths in (pictures, not_taken))
    return *names, [str(failure) for failure in failures]


def test_suffixes(tmp_path):
    names = ["a.JPG", "b.jfif", "c.jpe", "d.jp2", "e.ppm", "f.pgm", "g.pbm", "h.pnm", "i.webp", "j.bmp", "k.gif"]
    others = ["l.svg", "m.CR2", "n.eps", "o.psd", "p.jxl"]
    touched(tmp_path, *names, *others, "q.txt", "r.csv", "s", ".t.png", ".u/v.png", "__MACOSX/w.png")
    assert found(tmp_path) == (names, others, [])
    words = describe_not_taken(find_pictures(tmp_path).not_taken)
    assert words == "Left out, since their formats are not read here (5): l.svg, m.CR2, n.eps ..."
    assert {".avif", ".tiff"} <= suffixes() | {".avif"}


def test_photos_of_iphones_are_counted_unless_they_are_read(tmp_path):
    touched(tmp_path, "a.heic")
    pictures, not_taken, _ = found(tmp_path)
    assert (pictures, not_taken) == ((["a.heic"], []) if ".heic" in suffixes() else ([], ["a.heic"]))
    if not_taken:
        assert "pillow-heif" in describe_not_taken(find_pictures(tmp_path).not_taken)


def test_subfolders(tmp_path):
    touched(tmp_path, "b/a.png", "b/c/d.png", "a.png", "out/e.png")
    assert found(tmp_path)[0] == ["a.png", "b/a.png", "b/c/d.png", "out/e.png"]
    assert found(tmp_path, skip=(tmp_path / "out", tmp_path / "none"))[0] == ["a.png", "b/a.png", "b/c/d.png"]
    assert found(tmp_path, recursive=False)[0] == ["a.png"]
    with pytest.raises(FileError, match="none: No such file"):
        find_pictures(tmp_path / "none")
    with pytest.raises(FileError, match=r"a\.png: Not a directory"):
        find_pictures(tmp_path / "a.png")


def test_links(tmp_path):
    """Linked folders are read once, those with a name of their own here under that; links to nothing are named."""
    root, far = touched(tmp_path / "root", "a.png", "sub/b.png"), touched(tmp_path / "far", "in/c.png")
    for name, target in {
        "0": root / "sub", "again": far, "far": far, "sub/up": "..", "far/in/back": root, "self": "self",
        "gone": "nowhere", "link.png": "a.png", "lost.png": "nowhere.png", "lost.txt": "nowhere.txt",
    }.items():  # fmt: skip
        (root / name).symlink_to(target)
    pictures, not_taken, failures = found(root)
    assert pictures == ["a.png", "again/in/c.png", "link.png", "lost.png", "sub/b.png"] and not not_taken
    gone, lost, itself = failures
    assert gone == f"{root / 'gone'}: is a link to nothing." and "lost.txt: is a link to nothing" in lost
    assert itself.startswith(f"{root / 'self'}: ")
    assert found(root, recursive=False) == (["a.png", "link.png", "lost.png"], [], [])
    with pytest.raises(FileError, match=r"lost\.png: "):
        read_image(root / "lost.png")


def test_a_folder_that_cannot_be_read_is_one_failure(tmp_path, monkeypatch):
    touched(tmp_path, "cats/a.png", "dogs/b.png", "dogs/closed/c.png", "lions/d.png")
    scandir = os.scandir

    def refuse(path):  # a mode that forbids reading does not stop root
        if str(path).endswith(("closed", "lions")):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr("os.scandir", refuse)
    closed, lions = (f"{tmp_path / name}: Permission denied." for name in ("dogs/closed", "lions"))
    assert found(tmp_path) == (["cats/a.png", "dogs/b.png"], [], [closed, lions])
    dataset = ClassDataset(tmp_path)
    assert dataset.names == ["cats/a.png", "dogs/b.png"] and [str(f) for f in dataset.failures] == [closed, lions]
    (tmp_path / "cats" / "c.svg").touch()
    for name in ("cats/a.png", "dogs/b.png"):
        Image.new("RGB", (32, 32)).save(tmp_path / name)
    manual_seed(0)
    model, failures = csnet(0.2, classes=2), []
    model.labels = ("cats", "dogs")
    for _ in range(20):  # statistics for its norms
        model(Tensor(np.random.default_rng(0).normal(size=(2, 3, 32, 32)).astype(np.float32)))
    with pytest.raises(FileError, match="closed: Permission denied"):
        evaluate_classes(model, tmp_path, 32)
    assert evaluate_classes(model, tmp_path, 32, on_failure=failures.append).images == 2
    assert [str(failure) for failure in failures] == [closed, lions]
    save(model, tmp_path / "w.safetensors")
    done = run("eval", "--weights", tmp_path / "w.safetensors", "--data", tmp_path, "--size", 32, "-q")
    assert done.exit_code == 1 and "2 failed" in done.stdout
    assert done.stderr.splitlines() == [
        "Left out, since their formats are not read here (1): c.svg", f"Error: {closed}", f"Error: {lions}",
    ]  # fmt: skip


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_named_pipe_is_one_failure(tmp_path):
    write_pairs(tmp_path)
    (tmp_path / "images" / "b.jpg").unlink()
    os.mkfifo(tmp_path / "images" / "b.jpg")
    dataset = FolderDataset(tmp_path)
    assert dataset.names == ["a", "b", "c"] and dataset[0].name == "a"
    with pytest.raises(FileError, match=r"b\.jpg: is a named pipe; expected a regular file"):
        dataset[1]


def test_folders_with_any_names(tmp_path):
    write_pairs(tmp_path, "photos", "truth")
    dataset = FolderDataset(images=tmp_path / "photos", masks=str(tmp_path / "truth"))
    assert dataset.names == ["a", "b", "c"] and dataset[1].mask.max() == 255
    for options in ({}, {"images": tmp_path}, {"masks": tmp_path}):
        with pytest.raises(ValueError, match="either `root`, or `images` and `masks`"):
            FolderDataset(**options)
    with pytest.raises(ValueError, match="either `root`"):
        FolderDataset(tmp_path, images=tmp_path / "photos", masks=tmp_path / "truth")
    with pytest.raises(FileError, match="both for the pictures and for the masks"):
        FolderDataset(images=tmp_path / "photos", masks=tmp_path / "truth" / ".." / "photos")
    with pytest.raises(FileError, match="none: No such file"):
        FolderDataset(images=tmp_path / "none", masks=tmp_path / "truth")
    (tmp_path / "raw").mkdir()
    touched(tmp_path / "raw", "a.cr2", "b.svg")
    with pytest.raises(FileError, match=r"none of its 0 pictures has a mask .*a\.cr2, b\.svg"):
        FolderDataset(images=tmp_path / "raw", masks=tmp_path / "truth")


def test_data_sets_tell_what_they_leave_out(tmp_path):
    write_pairs(tmp_path)
    touched(tmp_path, "images/d.svg", "masks/d.psd")
    assert [path.name for path in FolderDataset(tmp_path).not_taken] == ["d.svg", "d.psd"]
    touched(tmp_path / "classes", "cat/a.png", "dog/b.png", "dog/c.nef")
    assert [path.name for path in ClassDataset(tmp_path / "classes").not_taken] == ["c.nef"]


def test_data_sets_tell_which_folders_they_do_not_search(tmp_path):
    write_pairs(tmp_path)
    touched(tmp_path, "images/more/e.png", "masks/more/e.png", "masks/.hidden/f.png", "images/__MACOSX/g.png")
    folders = FolderDataset(tmp_path).not_searched
    assert folders == [tmp_path / "images" / "more", tmp_path / "masks" / "more"]
    words = "Not searched, since pictures and masks are paired within one folder (2): images/more, masks/more"
    save(csnet(0.2), tmp_path / "w.safetensors")
    assert words in run("eval", "--model", tmp_path / "w.safetensors", "--size", "32", "--data", tmp_path).stderr
    assert words in run("train", "--data", tmp_path, "--steps", "1", "--size", "32", "-o", tmp_path / "r").stderr
    shutil.rmtree(tmp_path / "images")
    touched(tmp_path, "images/more/e.png")
    with pytest.raises(FileError, match=r"none of its 0 pictures has a mask in .*masks/more"):
        FolderDataset(tmp_path)


def composed_differently(folder):
    """Whether this file system tells the two spellings apart."""
    (folder / COMPOSED).touch()
    apart = not (folder / APART).exists()
    (folder / COMPOSED).unlink()
    return apart


def test_spellings_of_unicode(tmp_path):
    write_pairs(tmp_path, stems=("a", COMPOSED))
    (tmp_path / "masks" / f"{COMPOSED}.png").rename(tmp_path / "masks" / f"{APART}.png")
    dataset = FolderDataset(tmp_path)
    assert dataset.names == ["a", COMPOSED] and dataset[1].name == COMPOSED
    if composed_differently(tmp_path):
        (tmp_path / "masks" / f"{COMPOSED}.png").touch()
        with pytest.raises(FileError, match="have the same stem") as caught:
            FolderDataset(tmp_path)
        assert COMPOSED in str(caught.value) and APART in str(caught.value)


def test_case_counts_in_stems_and_not_in_suffixes(tmp_path):
    write_pairs(tmp_path, stems=("a", "b"))
    (tmp_path / "images" / "a.jpg").rename(tmp_path / "images" / "a.JPG")
    (tmp_path / "images" / "b.jpg").rename(tmp_path / "images" / "B.jpg")
    dataset = FolderDataset(tmp_path)
    assert dataset.names == ["a"] and [path.name for path in dataset.unpaired] == ["B.jpg", "b.png"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_spellings_of_unicode_in_classes(tmp_path, encoding):
    for folder, stem in ((APART, APART), ("dog", "b")):
        (tmp_path / folder).mkdir()
        Image.new("RGB", (4, 4)).save(tmp_path / folder / f"{stem}.png")
    dataset = ClassDataset(tmp_path)
    assert dataset.classes == (COMPOSED, "dog") and dataset.names == [f"{COMPOSED}/{COMPOSED}.png", "dog/b.png"]
    assert ClassDataset(tmp_path, (APART, "dog")).labels == [0, 1]
    for name in (COMPOSED, f"{COMPOSED}/{COMPOSED}.png", f"{APART}/{APART}.png"):
        (tmp_path / "list.csv").write_text(f"{name},{COMPOSED}\nb,dog\n", encoding=encoding)
        listed = ClassDataset(tmp_path / "list.csv")
        assert listed.names == dataset.names and listed.classes == dataset.classes
    if composed_differently(tmp_path):
        (tmp_path / COMPOSED).mkdir()
        with pytest.raises(FileError, match="two folders are named"):
            ClassDataset(tmp_path)


def test_a_data_set_beside_a_closed_folder(tmp_path, monkeypatch):
    write_pairs(tmp_path / "set")
    (tmp_path / "closed").mkdir()
    iterdir = type(tmp_path).iterdir

    def refuse(path):
        if path.name == "closed":
            raise PermissionError(13, "Permission denied")
        return iterdir(path)

    monkeypatch.setattr(type(tmp_path), "iterdir", refuse)
    assert len(FolderDataset(tmp_path)) == 3
    (tmp_path / "set").rename(tmp_path / ".set")
    with pytest.raises(FileError, match="closed: Permission denied"):
        FolderDataset(tmp_path)


def test_long_names_are_shortened(tmp_path):
    for call in (read_image, FolderDataset, ClassDataset, find_pictures):
        with pytest.raises(FileError) as caught:
            call("x" * 100_000)
        assert len(str(caught.value)) < 1100
    (tmp_path / "a.csv").write_text(f"{'n' * 100_000},cat\nb,dog\n")
    with pytest.raises(FileError, match="line 1 names n") as caught:
        ClassDataset(tmp_path / "a.csv")
    assert len(str(caught.value)) < 1500
    np.testing.assert_array_equal(read_image(Image.new("RGB", (2, 1), (1, 2, 3))), [[[1, 2, 3]] * 2])
