"""The whole network against the same one in PyTorch (bench/peers), in float64: any width, split and configuration."""

import numpy as np
import pytest

import octsod
from octsod import functional, optim
from octsod.interop import sod100k
from octsod.models import Configuration

torch = pytest.importorskip("torch", reason="PyTorch is not installed (extra `parity`)")
peer = pytest.importorskip("bench.peers.torch_csnet", reason="bench/ is not here: run from a checkout")

LEARNED = Configuration(
    (((3, 4),), ((3, 5), (4, 0), (2, 3)), ((5, 2), (3, 3), (7,)), ((0, 6), (5, 1), (6,)), ((3, 2), (5,))),
    (3, 4, 2), ((1, 0, 0, 2, 0), (0, 0, 0, 0, 3), (1, 1, 1, 1, 1)), 6,
)  # fmt: skip


@pytest.mark.parametrize(
    "configuration, size",
    [
        (Configuration.standard(0.5), (48, 32)),
        (Configuration.standard(1.2, (3, 1)), (32, 32)),
        (Configuration.standard(0.4, (1, 0)), (32, 48)),
        (Configuration.standard(0.4, (0, 1)), (32, 48)),
        (Configuration.standard(0.3, (1,)), (32, 16)),
        (Configuration.standard(0.6, (0.5, 0.3, 0.2)), (64, 32)),
        (LEARNED, (64, 48)),
    ],
    ids=["half", "x1.2-3/1", "1/0", "0/1", "one-branch", "three-branches", "learned"],
)
def test_logits_gradients_and_penalty(configuration, size):
    octsod.manual_seed(0)
    model = octsod.CSNet(configuration, "float64")
    rng = np.random.default_rng(1)
    for parameter in model.parameters():  # initial ones and zeros would hide mistakes
        if parameter.ndim == 1:
            parameter.data += rng.uniform(-0.3, 0.3, parameter.shape)
    c = configuration
    theirs = peer.CSNet(layers=peer.Layers(c.stages, c.fuse, c.dilated, c.merge))
    theirs.double().train()
    state = {n: torch.from_numpy(a.copy()) for n, a in sod100k.arrays(model).items()}
    missing, unexpected = theirs.load_state_dict(state, strict=False)
    assert not unexpected and all(n.endswith("num_batches_tracked") for n in missing)
    decay = peer.DynamicDecay(theirs)

    x, y = rng.standard_normal((2, 3, *size)), rng.random((2, 1, *size)).round()
    logits = model(octsod.Tensor(x))
    functional.binary_cross_entropy_with_logits(logits, octsod.Tensor(y)).backward()
    expected = theirs(torch.from_numpy(x))
    torch.nn.functional.binary_cross_entropy_with_logits(expected, torch.from_numpy(y)).backward()

    def close(a, b, name):
        assert np.abs(a - b).max() <= 1e-9 * max(np.abs(b).max(), 1e-12), name

    close(logits.numpy(), expected.detach().numpy(), "logits")
    grads = sod100k.arrays(model, "grad")
    for name, parameter in theirs.named_parameters():
        if parameter.grad is not None:
            close(grads[name], parameter.grad.numpy(), name)
    assert len(grads) == sum(p.grad is not None for p in theirs.parameters())
    ours = optim.DynamicWeightDecay(model, 1.0).apply()
    assert ours == pytest.approx(float(decay.penalty().detach()), rel=1e-10)
