"""Take what a guide shows of one machine anew: `python docs/outputs.py write-a-kernel`, with nothing else running.

Runs the guide's blocks in an empty folder, and puts what they print in the places of the `text` blocks below the
comment `of one machine`. The prose around them is for somebody to read again.
"""

import os
import pathlib
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT)]

from test_guides import BLOCKS, OF_ONE_MACHINE  # noqa: E402


def main(name: str) -> None:
    path = ROOT / "docs" / "guides" / f"{name}.md"
    text, shown = path.read_text(encoding="utf-8"), []
    with tempfile.TemporaryDirectory() as folder:
        os.symlink(ROOT / "docs", pathlib.Path(folder, "docs"))
        os.chdir(folder)
        for example in BLOCKS.parse(path).examples():
            start, end = example.region.start, example.region.end
            if text[:start].rstrip().endswith(OF_ONE_MACHINE):
                shown.append((start, end, example.namespace["__printed__"]))
            else:
                example.evaluate()
        os.chdir(ROOT)
    for start, end, printed in reversed(shown):
        lines = [line.rstrip() for line in printed.rstrip().splitlines()]
        assert text[start:end].startswith("```text\n") and text[start:end].endswith("```"), text[start:end]
        text = "\n".join([text[:start] + "```text", *lines, "```" + text[end:]])
    path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
