"""PyTorch checkpoints: honest files are read right."""

import pickle
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
from pickle_writer import STORAGES, Call, Global, Raw, Writer, small

from octsod.interop.pickles import read_checkpoint, read_layers

# --- checkpoints ------------------------------------------------------------------------------------------------------


def test_round_trip(writer, load):
    state = load(writer.bytes(small(writer)))
    assert list(state) == ["conv.weight", "bn.num_batches_tracked"]
    np.testing.assert_array_equal(state["conv.weight"], np.arange(24).reshape(2, 3, 2, 2))
    assert state["conv.weight"].dtype == np.float32
    assert state["bn.num_batches_tracked"].dtype == np.int64
    assert state["bn.num_batches_tracked"].shape == () and state["bn.num_batches_tracked"] == 7
    for array in state.values():
        assert array.flags.c_contiguous and array.flags.writeable and array.flags.owndata


@pytest.mark.parametrize("code", STORAGES)
def test_every_dtype(writer, load, code):
    array = np.array([[0, 1, 2], [3, 4, 100]]).astype(code)
    result = load(writer.bytes({"a": writer.of(array)}))["a"]
    assert result.dtype == array.dtype
    np.testing.assert_array_equal(result, array)


def test_bool_bytes_other_than_one_are_true(load):
    writer = Writer()
    result = load(writer.bytes({"a": writer.tensor(np.array([0, 1, 255], "u1"), (3,), kind="torch BoolStorage")}))["a"]
    assert result.dtype == bool and result.view("u1").tolist() == [0, 1, 1]


def test_views_of_one_storage(writer, load):
    flat = np.arange(40, dtype="f4")
    state = load(
        writer.bytes(
            {
                "transposed": writer.tensor(flat, (4, 3), (1, 4), 5),
                "every_other": writer.tensor(flat, (20,), (2,), 1),
                "one": writer.tensor(flat, (1, 1), (2**62, 2**62), 39),
                "expanded": writer.tensor(flat, (3, 2), (0, 1), 7),
                "last": writer.tensor(flat, (2, 2), (2, 1), 36),
            }
        )
    )
    np.testing.assert_array_equal(state["transposed"], np.arange(5, 17).reshape(3, 4).T)
    np.testing.assert_array_equal(state["every_other"], np.arange(1, 40, 2))
    np.testing.assert_array_equal(state["one"], [[39]])
    np.testing.assert_array_equal(state["expanded"], [[7, 8]] * 3)
    np.testing.assert_array_equal(state["last"], [[36, 37], [38, 39]])
    for array in state.values():
        assert array.flags.c_contiguous and array.flags.owndata
    state["last"][...] = 0  # shared in the file, not here
    assert state["one"] == 39


def test_empty_tensors(writer, load):
    state = load(writer.bytes({"a": writer.of(np.zeros((0, 38, 3, 3), "f4")), "b": writer.of(np.zeros(0, "i8"))}))
    assert state["a"].shape == (0, 38, 3, 3) and state["a"].dtype == np.float32
    assert state["b"].shape == (0,) and state["b"].dtype == np.int64


@pytest.mark.parametrize("wrap", [lambda s: {"state_dict": s}, lambda s: {"model": s, "epoch": 3}, lambda s: s])
def test_where_the_state_dict_may_be(writer, load, wrap):
    weight = np.ones((2, 2), "f4")
    data = writer.bytes(wrap({"module.fc.weight": writer.of(weight), "module.module.bias": writer.of(weight[0])}))
    assert list(load(data)) == ["fc.weight", "module.bias"]


def test_a_prefix_that_not_all_names_have_stays(writer, load):
    weight = np.ones(2, "f4")
    state = load(writer.bytes({"module.a": writer.of(weight), "a": writer.of(weight)}))
    assert list(state) == ["module.a", "a"]


def test_parameters_and_optimiser_state(writer, load):
    parameter = Call(Global("torch._utils _rebuild_parameter"), (writer.of(np.ones(3, "f4")), True, OrderedDict()))
    optimizer = {"state": {140: {"step": 3, "exp_avg": writer.of(np.zeros(3, "f4"))}}, "param_groups": [{"lr": 0.1}]}
    state = load(writer.bytes({"state_dict": {"a": parameter}, "optimizer": optimizer}))
    np.testing.assert_array_equal(state["a"], [1, 1, 1])


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_pickle_protocols(writer, load, protocol):
    """Protocols 4 and 5 come in frames, which the screening cuts out."""
    keys = {str(n) * 100: list(range(n)) for n in range(300)}
    found = small(writer)
    found["more"] = Raw(pickle.dumps(keys, protocol)[2:-1])
    assert len(load(writer.bytes(found))) == 2


def test_accepts_str_and_path(tmp_path):
    writer = Writer()
    (tmp_path / "a.pth").write_bytes(writer.bytes(small(writer)))
    assert list(read_checkpoint(str(tmp_path / "a.pth"))) == list(read_checkpoint(tmp_path / "a.pth"))


# --- the released files, where there are copies of them ---------------------------------------------------------------

OFFICIAL = Path(__file__).parents[2] / "shared" / "official"


@pytest.mark.skipif(not OFFICIAL.is_dir(), reason=f"needs the authors' released files in {OFFICIAL}")
@pytest.mark.parametrize("model, tensors, parameters", [("L-x1", 739, 93_647), ("L-x2", 737, 140_894)])
def test_released_files(model, tensors, parameters):
    state = read_checkpoint(OFFICIAL / f"csnet-{model}.pth.tar")
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    assert len(state) == tensors
    assert sum(array.size for name, array in state.items() if not name.endswith(statistics)) == parameters
    assert all(np.isfinite(array).all() for array in state.values())

    layers = read_layers(OFFICIAL / f"csnet-{model}.bin")
    assert len(layers) == 22 and layers[-1] == [3, 4, 6, 4]
    weight = state["stage0.0.conv1x1.conv.weight"]
    assert weight.shape == (sum(layers[0][1]), layers[0][0], 3, 3)
    for branch, widths in enumerate(layers[19][2]):
        kept = [f"oct_fuse.ms.convs.{branch}.msconv.{n}.weight" for n, width in enumerate(widths) if width]
        assert [state[name].shape[0] for name in kept] == [width for width in widths if width]
