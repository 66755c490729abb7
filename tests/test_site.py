"""The site builds without a warning, leads nowhere that does not exist, loads nothing from elsewhere, and its reference
has all public names."""

import html.parser
import importlib.util
import os
import subprocess
import sys
import zlib
from inspect import isclass, isfunction

import pytest
from commands import ROOT

PACKAGES = ("mkdocs", "material", "mkdocstrings_handlers")
missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
if missing and os.environ.get("OCTSOD_TEST_SITE") != "required":
    pytest.skip(f"{', '.join(missing)} not installed: pip install '.[docs]'", allow_module_level=True)

ROOMS = (
    "octsod", "octsod.functional", "octsod.nn", "octsod.models", "octsod.autograd", "octsod.ops", "octsod.backend",
    "octsod.optim", "octsod.data", "octsod.inference", "octsod.evaluation", "octsod.prune", "octsod.profiling",
    "octsod.testing", "octsod.testing.cusim",
)  # fmt: skip


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)], cwd=ROOT,
        capture_output=True, text=True, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def names_in(site):
    """What the reference has an entry for, from the inventory that other sites link by."""
    data = (site / "objects.inv").read_bytes()
    start = data.index(b"zlib.\n") + len(b"zlib.\n")
    return {line.split(b" ")[0].decode() for line in zlib.decompress(data[start:]).splitlines()}


@pytest.mark.parametrize("room", ROOMS)
def test_the_reference_has_all_public_names(site, room):
    known, module = names_in(site), importlib.import_module(room)
    public = module.__all__ if hasattr(module, "__all__") else [
        name for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__module__", None) == room
    ]  # fmt: skip
    objects = {name: getattr(module, name) for name in public}
    documented = {n for n, value in objects.items() if (isclass(value) or isfunction(value)) and value.__doc__}
    assert documented and {f"{room}.{name}" for name in documented} <= known


def test_pages_load_nothing_from_elsewhere(site):
    class Loaded(html.parser.HTMLParser):
        found = ()

        def handle_starttag(self, tag, attributes):
            given = dict(attributes)
            url = given.get("href") if tag == "link" else given.get("src")
            if url and "//" in url and given.get("rel") != "canonical":
                self.found = (*self.found, url)

    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 30
    for page in pages:
        parser = Loaded()
        parser.feed(page.read_text(encoding="utf-8"))
        assert not parser.found, f"{page}: {parser.found}"


def test_docstrings_are_shown_as_they_are(site):
    """Stars are no italics, and what is explained stands out."""
    page = (site / "reference" / "functional.html").read_text(encoding="utf-8")
    assert "(H + 2*padding - dilation*(kh - 1) - 1)//stride + 1" in page
    assert "<strong>label_smoothing</strong>: " in page
