"""Profiles of Hypothesis: the same examples every time in CI (CI=true), fresh ones elsewhere."""

import os

from hypothesis import settings

settings.register_profile("ci", deadline=None, derandomize=True, max_examples=100)
settings.register_profile("local", deadline=None, max_examples=100)
settings.load_profile("ci" if os.environ.get("CI") == "true" else "local")
