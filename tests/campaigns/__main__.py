"""`python tests/campaigns --help`, from a checkout: the campaigns and their options."""

import pathlib
import sys

# In place of this folder, in which modules would lose their package: the tests' helpers, and this checkout's octsod.
TESTS = pathlib.Path(__file__).resolve().parents[1]
sys.path[:1] = [str(TESTS), str(TESTS.parent)]

from campaigns.commands import main  # noqa: E402

main(prog_name="python tests/campaigns")
