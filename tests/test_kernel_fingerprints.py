"""Which edit makes which kernels miss their entry in the cache: stale code would be worse than any wait."""

import ast
import collections
import importlib
import json
import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from commands import ROOT
from numba import types

fingerprints = importlib.import_module("octsod.kernels.cpu.fingerprints")
kernel = importlib.import_module("octsod.kernels.cpu.compile").kernel

PRINT_FINGERPRINTS = """
    import gc
    import json
    import sys
    import octsod.kernels.cpu
    import octsod.kernels.cpu.peak
    import octsod.kernels.cpu.timed
    from numba.core.dispatcher import Dispatcher
    from octsod.kernels.cpu.fingerprints import fingerprint
    found = {}
    for kernel in gc.get_objects():
        if isinstance(kernel, Dispatcher) and kernel.py_func.__module__.startswith("octsod.kernels."):
            name = kernel.py_func.__module__.rpartition(".")[2] + "." + kernel.py_func.__qualname__
            assert name not in found  # old versions of a kernel are recognised, and deleted, by its name
            found[name] = fingerprint(kernel)
    json.dump(found, sys.stdout)
"""


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A copy of the sources, and the fingerprints of its kernels."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("octsod", "kernels"):
        for file in (ROOT / name).rglob("*.py"):
            to = folder / file.relative_to(ROOT)
            to.parent.mkdir(parents=True, exist_ok=True)
            to.write_bytes(file.read_bytes())
    return folder, of(folder)


def of(folder):
    """The fingerprints of all kernels of a checkout: all have one, or this raises."""
    environment = {**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    code = [sys.executable, "-c", textwrap.dedent(PRINT_FINGERPRINTS)]
    done = subprocess.run(code, env=environment, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    ("file", "old", "new", "changed", "unchanged"),
    [
        pytest.param(
            "elementwise", "_pairs(operator.add", "_pairs(operator.mul", {"elementwise._add"}, None, id="kernel"
        ),
        pytest.param(
            "steps", "FLUSH = 1 << 11", "FLUSH = 1 << 10", {"steps.activate", "programs._run"},
            {"elementwise._add", "steps.fill", "products.multiply"}, id="constant",
        ),
        pytest.param(
            "bodies", "return fma(v, f.scale, f.shift)", "return fma(v, f.shift, f.scale)",
            {"bodies.argument", "bodies.activated", "steps.activate", "programs._run"},
            {"elementwise._add", "products.multiply", "optimization._adam"}, id="helper",
        ),
        pytest.param(
            "tiles", 'builder.icmp_signed(">=", left_', 'builder.icmp_signed(">", left_',
            {"products.multiply", "programs._run", "network._pictures", "peak._multiply_add"},
            {"elementwise._add", "optimization._adam"}, id="intrinsic",
        ),
        pytest.param(
            "regions", "    first: int\n    all: int", "    all: int\n    first: int",
            {"programs._run"}, {"elementwise._add", "products.multiply"}, id="named tuple",
        ),
        pytest.param(
            "compile", '"boundscheck": False', '"boundscheck": True', {"elementwise._add", "programs._run"}, set(),
            id="option",
        ),
        pytest.param(
            "hooks", "return lambda clock, k: None", "return lambda clock, k: k",
            {"programs._run", "network._pictures"}, {"elementwise._add", "products.multiply", "steps.activate"},
            id="overload",
        ),
        pytest.param(
            "clock", "return lambda clock, k: stamp(clock, k)", "return lambda clock, k: stamp(clock, k + 1)",
            {"timed._timed", "clock.begin", "clock.stamp", "clock.read", "peak._move", "peak._multiply_add"}, None,
            id="a profiler's overload",
        ),
        pytest.param("cache", "MOST = 1 << 28", "MOST = 1 << 27", set(), None, id="the cache itself"),
        pytest.param("elementwise", "@kernel\ndef _add", "# Why\n\n@kernel\ndef _add", set(), None, id="comment"),
    ],
)  # fmt: skip
def test_what_an_edit_reaches(checkout, file, old, new, changed, unchanged):
    """A kernel and its users are compiled again, and no others: if `unchanged` is None, exactly `changed` are."""
    folder, before = checkout
    path = folder / "kernels" / "cpu" / f"{file}.py"
    source = path.read_text()
    assert source.count(old) == 1
    path.write_text(source.replace(old, new))
    try:
        after = of(folder)
    finally:
        path.write_text(source)
    assert after.keys() == before.keys() and len(after) > 100
    different = {name for name in after if after[name] != before[name]}
    if unchanged is None:
        assert different == changed
    else:
        assert changed <= different and unchanged <= after.keys() - different


def test_modules_import_at_their_top():
    """An import inside a function would hide from a fingerprint what an intrinsic uses."""
    for file in (ROOT / "kernels" / "cpu").glob("*.py"):
        tree = ast.parse(file.read_text())
        imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
        inner = [node for node in imports if node not in tree.body]
        if file.stem != "cache_folder":  # which no kernel uses
            assert not inner, file


def with_closure(value):
    def function(x):
        return x + value

    return kernel(function)


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """Whether a kernel would be kept in the cache."""
    monkeypatch.setattr("octsod.kernels.cpu.cache.cache_folder", lambda: (tmp_path, ""))
    return lambda function: function._cache._entry((types.int64,))[0] is not None


@pytest.mark.parametrize(
    ("one", "two"),
    [(1, 2), (1, 1.0), (True, 1), (1.0, -1.0), (0.0, -0.0), ((1, 2), (2, 1)), ("a", b"a"), (None, 0),
     (np.float32(1), np.float64(1)), (np.dtype("f4"), np.dtype(">f4")), (np.zeros(2), np.zeros((2, 1))),
     (frozenset({1, 2}), frozenset({1, 3}))],
)  # fmt: skip
def test_values_that_a_kernel_knows(one, two):
    first, second, again = (fingerprints.fingerprint(with_closure(value)) for value in (one, two, one))
    assert first == again != second


def test_a_function_that_knows_itself_is_not_kept(kept):
    assert kept(with_closure(1))

    def outer(x):
        return outer(x)

    assert not kept(with_closure(outer))


@pytest.mark.parametrize("value", [[1], {1: 2}, object(), np.array([None]), lambda: None])
def test_a_kernel_whose_values_have_no_known_contents_is_not_kept(kept, value):
    if callable(value):
        value = [value]
    function = with_closure(value)
    with pytest.raises(fingerprints.UnknownError):
        fingerprints.fingerprint(function)
    assert not kept(function)


def test_kernels_used_through_one_another():
    inner, other = with_closure(1), with_closure(2)

    def use(inner):
        def function(x):
            return inner(x)

        return fingerprints.fingerprint(kernel(function))

    assert use(inner) == use(with_closure(1)) != use(other)


def test_types_of_arguments():
    one, two = collections.namedtuple("Pair", "a b"), collections.namedtuple("Pair", "b a")
    kinds = [
        types.float32, types.float64, types.Array(types.float32, 1, "C"), types.Array(types.float32, 1, "A"),
        types.Array(types.float32, 1, "C", readonly=True), types.UniTuple(types.int64, 2), types.boolean,
        types.NamedUniTuple(types.int64, 2, one), types.NamedUniTuple(types.int64, 2, two), types.none,
        types.Tuple((types.int64, types.NamedUniTuple(types.int64, 2, one))),
        types.Tuple((types.int64, types.NamedUniTuple(types.int64, 2, two))), types.literal(1), types.literal(2),
    ]  # fmt: skip
    prints = [fingerprints.fingerprint_of_types((kind,)) for kind in kinds]
    prints += [fingerprints.fingerprint_of_types((types.none, types.int8)), fingerprints.fingerprint_of_types(())]
    assert len(set(prints)) == len(prints)
    with pytest.raises(fingerprints.UnknownError):
        fingerprints.fingerprint_of_types((types.Dispatcher(with_closure(1)),))
