"""Networks to test with: drawn configurations of every kind, and weights and statistics such as training leaves."""

import numpy as np
import pytest
from hypothesis import strategies as st

import octsod
from octsod import nn
from octsod.models import Configuration, CSNet

FUSED = [(4,), (3, 4), (2, 4), (2, 3, 4), (1, 4), (1, 2, 3, 4)]


def learned(rng, variant="csnet", fused=(2, 3, 4), **more):
    """A configuration such as pruning leaves behind: any counts, some branches and dilations without channels."""
    count = lambda high: int(rng.integers(1, high))  # noqa: E731
    stages = []
    for stage, blocks in enumerate((1, 2, 2, 3, 1)):
        outs = [(count(9), count(9)) if rng.random() < 0.7 else (count(9), 0) for _ in range(blocks)]
        outs = [(0, count(9)) if rng.random() < 0.1 else pair for pair in outs]
        stages.append((*outs[:-1], (count(12),)) if stage in fused else outs)
    if variant != "csnet":
        return Configuration(stages, variant=variant, fused=fused, **more)
    scales = 5 - fused[0]
    fuse = [count(9) if rng.random() < 0.7 else 0 for _ in range(scales - 1)]
    fuse.insert(int(rng.integers(scales)), count(9))
    dilated = [[int(n) for n in rng.integers(0, 4, 5)] if ins else [0] * 5 for ins in fuse]
    dilated[int(np.flatnonzero(fuse)[0])][count(5)] += 1
    return Configuration(stages, fuse, dilated, count(9), variant, fused, **more)


def configurations(**more):
    """A strategy: standard and learned configurations of all variants, whatever stages they fuse."""
    variants, fused = st.sampled_from(["csnet", "csnet", "extractor", "vanilla"]), st.sampled_from(FUSED)
    splits = st.sampled_from([(0.5, 0.5), (1, 0), (0, 1), (0.25, 0.25, 0.5), (0.7, 0.3), (1,)])
    standard = st.builds(
        Configuration.standard, st.sampled_from([0.2, 0.35, 0.5]), splits, variants, st.none() | fused, **more
    )
    drawn = st.builds(
        lambda seed, *arguments, **more: learned(np.random.default_rng(seed), *arguments, **more),
        st.integers(0, 2**32 - 1), variants, fused, **more,
    )  # fmt: skip
    return standard | drawn


def lived_in(configuration, seed, dtype):
    """A network in eval mode whose scales, biases and slopes are of either sign or zero, with statistics that fit."""
    octsod.manual_seed(seed)
    model = CSNet(configuration, dtype)
    rng = np.random.default_rng(seed)
    for name, array in model.state_dict().items():
        if name.endswith((".bias", ".slope")):
            array[...] = rng.normal(0, 0.3, array.shape)
        elif ".norms." in name and name.endswith(".weight"):
            array[...] = rng.choice([1, 1.3, 0.6, -0.8, 0], array.shape)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nn.NormAct, "momentum", 1.0)  # one pass gives the running statistics
        side = 2 * configuration.multiple
        model.train()(octsod.Tensor(rng.standard_normal((2, 3, side, side)).astype(dtype)))
    return model.eval()
