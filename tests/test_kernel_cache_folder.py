"""Where compiled kernels are kept: in no folder that others could have put code into, and never in a surprising one."""

import importlib
import os
import stat

import pytest

from octsod import places

folders = importlib.import_module("octsod.kernels.cpu.cache_folder")


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    """A user without a home, in an empty working directory; beside it, one for temporary files."""
    for name in ("HOME", "XDG_CACHE_HOME", "OCTSOD_CACHE_DIR", "USERPROFILE"):
        monkeypatch.delenv(name, raising=False)

    def unknown(number):
        raise KeyError(number)

    monkeypatch.setattr("pwd.getpwuid", unknown)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    for name in ("here", "temporary"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "here")
    places._is_own_group.cache_clear()
    yield tmp_path
    places._is_own_group.cache_clear()


def chosen():
    """The folder and the problem, found anew."""
    return folders.cache_folder.__wrapped__()


@pytest.mark.parametrize("environment", [{}, {"XDG_CACHE_HOME": "relative"}, {"HOME": "relative"},
                                         {"OCTSOD_CACHE_DIR": "~/mine"}])  # fmt: skip
def test_without_a_home(nowhere, monkeypatch, environment):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(folders, "host", lambda: "host")
    folder, problem = chosen()
    private = nowhere / "temporary" / f"octsod-cache-{os.geteuid()}"
    assert folder == private / "kernels-host" and stat.S_IMODE(private.stat().st_mode) == 0o700
    assert problem.startswith("OCTSOD_CACHE_DIR=~/mine: ") if "OCTSOD_CACHE_DIR" in environment else not problem
    assert [*(nowhere / "here").iterdir()] == []
    private.chmod(0o755)
    assert chosen()[0] is None  # others may have looked at it, and it is not as we made it
    private.rmdir()
    private.symlink_to(nowhere / "here")
    assert chosen()[0] is None


def test_a_working_directory_that_is_gone(nowhere, monkeypatch):
    monkeypatch.setattr(folders, "host", lambda: "host")
    monkeypatch.setenv("OCTSOD_CACHE_DIR", "relative")
    (nowhere / "here").rmdir()
    folder, problem = chosen()
    assert folder.parent.parent == nowhere / "temporary" and problem.startswith("OCTSOD_CACHE_DIR=relative: ")


def test_places_that_are_chosen(nowhere, monkeypatch):
    monkeypatch.setattr(folders, "host", lambda: "host")
    monkeypatch.setenv("HOME", str(nowhere / "home"))
    assert places.cache_root() == nowhere / "home" / ".cache" / "octsod"
    monkeypatch.setenv("XDG_CACHE_HOME", str(nowhere / "xdg"))
    assert places.cache_root() == nowhere / "xdg" / "octsod"
    monkeypatch.setenv("OCTSOD_CACHE_DIR", "relative")
    assert chosen() == (nowhere / "here" / "relative" / "kernels-host", "")
    monkeypatch.setenv("OCTSOD_CACHE_DIR", "~/mine")
    assert chosen() == (nowhere / "home" / "mine" / "kernels-host", "")
    assert [*(nowhere / "here").iterdir()] == []


@pytest.mark.parametrize("which", ["root", "kernels-host"])
def test_a_folder_that_others_may_write_to(nowhere, monkeypatch, which):
    monkeypatch.setattr(folders, "host", lambda: "host")
    root = nowhere / "root"
    monkeypatch.setenv("OCTSOD_CACHE_DIR", str(root))
    (root / "kernels-host").mkdir(parents=True)
    root.chmod(0o755)
    (root / "kernels-host").chmod(0o755)
    assert chosen() == (root / "kernels-host", "")
    bad = root if which == "root" else root / which
    for mode, words in ((0o1777, "everyone may write to it"), (0o775, "its group may write to it")):
        bad.chmod(mode)
        folder, problem = chosen()
        assert folder.parent.parent == nowhere / "temporary"
        assert problem.startswith(f"{bad}: is not used") and words in problem and f"{folder.parent} is used" in problem


def facts(mode, owner, group=12345):
    return os.stat_result((mode, 0, 0, 1, owner, group, 0, 0, 0, 0))


def test_owners():
    me = os.geteuid()
    assert places.mistrust_of(facts(0o755, me)) == places.mistrust_of(facts(0o755, 0)) == ""
    assert "another user" in places.mistrust_of(facts(0o755, me + 1))
    assert "everyone" in places.mistrust_of(facts(0o777, me)) and "group" in places.mistrust_of(facts(0o775, 0))


def test_a_group_of_ones_own(monkeypatch):
    """Where new files are writable for a group, it is often the user's alone."""
    import grp
    import pwd

    me = pwd.struct_passwd(("ann", "x", os.geteuid(), 500, "", "/", "/"))
    monkeypatch.setattr(pwd, "getpwuid", lambda number: me)
    for group, own in (
        (("ann", "x", 500, []), True),
        (("ann", "x", 500, ["ann"]), True),
        (("ann", "x", 500, ["bob"]), False),
        (("users", "x", 500, []), False),
        (("ann", "x", 501, []), False),
    ):
        monkeypatch.setattr(grp, "getgrgid", lambda number, group=group: grp.struct_group(group))
        places._is_own_group.cache_clear()
        assert (places.mistrust_of(facts(0o775, os.geteuid(), group[2])) == "") == own
    places._is_own_group.cache_clear()


def test_a_folder_that_cannot_be_written(nowhere, monkeypatch):
    """Such as the home of a container's user who is known by number only: kernels must be kept elsewhere, or each
    process would compile them."""
    monkeypatch.setattr(folders, "host", lambda: "host")
    root = nowhere / "home" / ".cache" / "octsod"
    private = nowhere / "temporary" / f"octsod-cache-{os.geteuid()}" / "kernels-host"
    monkeypatch.setenv("HOME", str(nowhere / "home"))
    refused = {nowhere, nowhere / "home", root / "kernels-host"}
    access = lambda path, mode: not (mode & os.W_OK and path in refused)  # noqa: E731 (root may write anywhere)
    monkeypatch.setattr(os, "access", access)
    assert chosen() == (private, ""), "no home"
    (root / "kernels-host").mkdir(parents=True)
    assert chosen() == (private, ""), "nothing in it"
    monkeypatch.setenv("OCTSOD_CACHE_DIR", str(root))
    assert chosen() == (private, f"{root}: is not writable; {private.parent} is used instead")
    (root / "kernels-host" / "a.kernel").touch()
    assert chosen() == (root / "kernels-host", ""), "it is read"
    monkeypatch.setenv("OCTSOD_CACHE_DIR", str(root / "kernels-host" / "a.kernel"))
    assert chosen()[0] == private


@pytest.mark.parametrize("home", ["/dev/null", "/" + 300 * "a"])
def test_a_home_that_cannot_exist(nowhere, monkeypatch, home):
    monkeypatch.setattr(folders, "host", lambda: "host")
    monkeypatch.setenv("HOME", home)
    assert chosen() == (nowhere / "temporary" / f"octsod-cache-{os.geteuid()}" / "kernels-host", "")


def test_no_folder_for_temporary_files(nowhere, monkeypatch):
    """Then Python offers the working directory, where nobody expects them."""
    for name in ("TMPDIR", "TEMP", "TMP"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("tempfile.tempdir", str(nowhere / "here"))
    folder, problem = chosen()
    assert folder is None and "not even a temporary one" in problem and not [*(nowhere / "here").iterdir()]
    monkeypatch.setenv("TMPDIR", str(nowhere / "here"))  # unless it is meant
    assert chosen()[0].parent.parent == nowhere / "here"
