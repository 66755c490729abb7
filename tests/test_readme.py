"""What the README shows really runs."""

import re

import numpy as np
from commands import ROOT, run
from PIL import Image

README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_python(tmp_path, monkeypatch):
    (code,) = re.findall(r"^```python\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    Image.new("RGB", (40, 30), "teal").save(tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(compile(code, "README.md", "exec"), names)
    assert names["salience"].shape == (30, 40) and 0 < names["loss"].item() < 1
    assert all(isinstance(p.grad, np.ndarray) for p in names["model"].parameters())


def test_the_commands():
    """Each command has the options that the README names."""
    blocks = re.findall(r"^```sh\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    installed, predicts, trains = blocks[0].splitlines()
    assert (installed, trains) == ("pip install .", "octsod train") and "pytest" in blocks[1]
    assert run(*predicts.split()[1:], "-o", "-", "-q").stdout_bytes.startswith(b"\x89PNG")
    shown = [call for line in blocks[2].splitlines() for call in line.split("#")[0].split(";")]
    for call in filter(None, map(str.split, shown)):
        assert call[0] == "octsod"
        options = {word for word in call if word.startswith("-")}
        assert options <= set(run(call[1], "--help").stdout.replace(",", " ").split()), call
