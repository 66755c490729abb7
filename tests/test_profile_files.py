"""A profile's file: what is written is what is read, and nothing else is."""

import dataclasses
import gzip
import json

import numpy as np
import pytest
from hypothesis import given, settings
from profiles import profile, profiles, row, typical

from octsod.errors import FileError
from octsod.profiling import Event, files, load, save


@settings(max_examples=60, deadline=None)
@given(drawn=profiles())
def test_round_trip(drawn, tmp_path_factory):
    path = tmp_path_factory.mktemp("profile") / "p.json"
    save(drawn, path)
    assert load(path) == drawn


def test_numbers_of_numpy(tmp_path):
    mine = profile(row(ms=np.full(2, 3.0), flops=np.int64(7), bytes=np.int64(8)), rounds=np.full(2, 4.0))
    save(dataclasses.replace(mine, compiled=np.float32(0.5)), tmp_path / "p.json")
    read = load(tmp_path / "p.json")
    assert read.rows[0].seconds == (0.003, 0.003) and read.rows[0].flops == 7 and read.compiled == 0.5


def test_of_many_events_the_latest_are_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "MOST_EVENTS", 2)
    events = [Event("kernel", str(i), "t", "cpu", i, i + 1) for i in (2, 0, 1, 3)]
    save(dataclasses.replace(typical(), events=events, lost=5), tmp_path / "p.json")
    read = load(tmp_path / "p.json")
    assert [event.name for event in read.events] == ["2", "3"] and read.lost == 7


@pytest.mark.parametrize("change", [
    {"rounds": ()}, {"rounds": (float("nan"),) * 5}, {"rows": (row(ms=(1.0,)),)}, {"compiled": -1.0},
    {"machine": {"a": object()}}, {"events": (Event("kernel", "", "", "", 2, 1),)},
    {"rows": (row(ms=(float("inf"),) * 5),)},
])  # fmt: skip
def test_what_could_not_be_read_is_not_written(change, tmp_path):
    with pytest.raises(ValueError, match=r"^profile: cannot be saved: .*\.$"):
        save(dataclasses.replace(typical(), **change), tmp_path / "p.json")
    assert not list(tmp_path.iterdir())


def refusal(path):
    with pytest.raises(FileError) as error:
        load(path)
    message = str(error.value)
    assert message.startswith(f"{path}: ") and message.endswith(".") and "\n" not in message
    return message.removeprefix(f"{path}: ")


@pytest.mark.parametrize("data, words", [
    (b"", "is no profile, or a damaged one: it is no JSON"),
    (b"\x89PNG\r\n\x1a\n\0\xff", "is no profile, or a damaged one"),
    (gzip.compress(b"{}", mtime=0), "is no profile, or a damaged one"),
    (b"[]", "is no profile; `octsod profile --json`"),
    (b"3", "is no profile; `octsod profile --json`"),
    (b'{"traceEvents": []}', "is no profile; `octsod profile --json`"),
    (b'{"format": "octsod profile"}', "is a damaged profile: `version` is missing"),
    (b'{"format": "octsod profile", "version": 9}', "is a profile of version 9; this octsod reads 1"),
    (b'{"format": "octsod profile", "version": true}', "is a damaged profile: `version` is True; expected 1"),
    (b'{"format": "octsod profile", "version": 1.0}', "is a damaged profile: `version` is 1.0; expected 1"),
    (b'{"format": "octsod profile", "version": 1}', "is a damaged profile: `subject` is missing"),
    (b'{"format": "octsod profile", "version": "1"}', "is a damaged profile: `version` is '1'; expected 1"),
    (b'{"format": "octsod profile", "version": 0}', "is a damaged profile: `version` is 0; expected 1"),
    (b"[" * 5000, "is no profile, or a damaged one: its JSON is nested too deeply"),
    (b'{"a": 1, "a": 2}', "is no profile, or a damaged one: its JSON has a key twice"),
])  # fmt: skip
def test_foreign_files(data, words, tmp_path):
    (tmp_path / "p.json").write_bytes(data)
    assert refusal(tmp_path / "p.json").startswith(words)


def test_missing_files_and_folders(tmp_path):
    assert refusal(tmp_path / "none") == "No such file or directory."
    assert refusal(tmp_path) == "is a folder; expected a file."


@pytest.fixture
def entries(tmp_path):
    save(typical(), tmp_path / "whole.json")
    return json.loads((tmp_path / "whole.json").read_text())


DAMAGES = {
    "rounds": ([], "`rounds` is []; expected a list of at least 1"),
    "rounds.0": (0, "`rounds[0]` is 0; expected a finite number of at least 1e-09 and at most 1e+09"),
    "rounds.1": (float("nan"), "`rounds[1]` is nan; expected a finite number of at least 1e-09"),
    "rounds.2": ("1", "`rounds[2]` is '1'; expected a finite number of at least 1e-09"),
    "rounds.3": (True, "`rounds[3]` is True; expected a finite number of at least 1e-09"),
    "rounds.4": (1e-300, "`rounds[4]` is 1e-300; expected a finite number of at least 1e-09 and at most 1e+09"),
    "captured": ([1e300], "`captured[0]` is 1e+300; expected a finite number of at least 1e-09 and at most 1e+09"),
    "roofs.0.launch": (1e300, "`roofs[0].launch` is 1e+300; expected a finite number of at least 0 and at most 1e+09"),
    "roofs.0.arithmetic": (1e-300, "`roofs[0].arithmetic` is 1e-300; expected a finite number of at least 0.001"),
    "rows": ({}, "`rows` is {}; expected a list"),
    "rows.0": (None, "`rows[0]` is None; expected an object"),
    "rows.1.seconds": ([1.0], "`rows[1].seconds` has 1 numbers; expected 5, one per round"),
    "rows.1.seconds.2": (float("inf"), "`rows[1].seconds[2]` is inf; expected a finite number of at least 0"),
    "rows.2.kernel": (3, "`rows[2].kernel` is 3; expected text"),
    "rows.3.flops": (1.5, "`rows[3].flops` is 1.5; expected an integer of at least 0"),
    "rows.3.bytes": (-1, "`rows[3].bytes` is -1; expected an integer of at least 0"),
    "rows.4.calls": (None, "`rows[4].calls` is None; expected a finite number of at least 0"),
    "rows.4.beside": (0, "`rows[4].beside` is 0; expected true or false"),
    "rows.5.more": (1, "`rows[5].more` is not known"),
    "roofs.0.bandwidth": (0, "`roofs[0].bandwidth` is 0; expected a finite number of at least 0.001"),
    "roofs.0.caches": ([3], "`roofs[0].caches[0]` is 3; expected an object"),
    "roofs.0.fastest": (None, "`roofs[0].fastest` is None; expected a finite number of at least 0"),
    "held": ([[1, 2, 3]], "`held[0]` is (1, 2, 3); expected a moment and a number of bytes"),
    "roofs.0.threads": (0, "`roofs[0].threads` is 0; expected an integer of at least 1"),
    "memory.0.bytes": ("x" * 500, "`memory[0].bytes` is 'xxx"),
    "machine": (3, "`machine` is 3; expected an object"),
    "machine.load": (float("nan"), "`machine.load` is nan; expected a finite number"),
    "subject": (None, "`subject` is None; expected text"),
    "lost": (1.0, "`lost` is 1.0; expected an integer of at least 0"),
    "extra": (1, "`extra` is not known"),
    "events.0": ([0, 0, 0, 99, 1, 2], "`events[0]` is (0, 0, 0, 99, 1, 2); expected the numbers of four names"),
    "events.1": ([0, 0, 0, 0, 2, 1], "`events[1]` is (0, 0, 0, 0, 2, 1); expected the numbers of four names"),
    "events.2": ([1], "`events[2]` is (1,); expected the numbers of four names"),
    "events.3.0": ("x", "`events[3][0]` is 'x'; expected an integer"),
}


@pytest.mark.parametrize("place", DAMAGES)
def test_damaged_values(place, entries, tmp_path):
    value, words = DAMAGES[place]
    *way, last = [int(part) if part.isdigit() else part for part in place.split(".")]
    target = entries
    for part in way:
        target = target[part]
    target[last] = value
    (tmp_path / "p.json").write_text(json.dumps(entries))
    assert refusal(tmp_path / "p.json").startswith(f"is a damaged profile: {words}")


def test_missing_values(entries, tmp_path):
    for name in [*entries]:
        if name not in ("format", "version"):
            (tmp_path / "p.json").write_text(json.dumps({n: v for n, v in entries.items() if n != name}))
            assert refusal(tmp_path / "p.json").startswith(f"is a damaged profile: `{name}` is missing; expected")
    del entries["rows"][1]["op"]
    (tmp_path / "p.json").write_text(json.dumps(entries))
    assert "`rows[1].op` is missing; expected text" in refusal(tmp_path / "p.json")


def test_truncated_anywhere(tmp_path):
    save(typical(), tmp_path / "whole.json")
    data = (tmp_path / "whole.json").read_bytes()
    for length in range(0, len(data), 97):
        (tmp_path / "p.json").write_bytes(data[:length])
        assert refusal(tmp_path / "p.json").startswith("is no profile, or a damaged one")
