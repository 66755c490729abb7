"""The generalised octave convolution (gOctConv): any number of branches, each half the size of the one before."""

from collections.abc import Sequence

from ..autograd import Op
from ..backend import empty, kernels, zeros
from ..backend.deferred import Deferred, DeferredGradient
from ..checks import require, require_dtype, require_given, require_integer, require_map
from .convolution import moments_for, result
from .cost import Cost, Shape, elements

OP = "octave_conv2d"


class OctaveConv2d(Op):
    """Branches x_0.. (None for one without channels), finest first, and one weight (sum O, sum C, k, k) -> branches.

    Output j is the sum over inputs i of conv(x_i): at the same size; after max-pooling by 2**(j - i) where the input
    is finer; bilinearly upsampled by 2**(i - j) afterwards where it is coarser. With stride 2 every input is first
    averaged 2x2. The kernel is square and odd, padded to keep the size. (Paper, section 3.1; csnet.md, section 1.)
    """

    deferred = True

    @staticmethod
    def forward(ctx, weight, *inputs, out_channels, stride=1, moments=False):
        require_given(weight, OP, "weight")
        for i, x in enumerate(inputs):
            if x is not None:
                require_map(x, OP, f"inputs[{i}]")
        inputs = [None if x is None or x.shape[1] == 0 else Deferred.of(x) for x in inputs]
        out_channels = tuple(require_integer(n, OP, "out_channels", 0) for n in out_channels)
        height, width = _check(weight, inputs, out_channels, stride)
        first = next(x for x in inputs if x is not None)
        outputs = [
            empty((first.shape[0], n, height >> j, width >> j), first.dtype) if n else None
            for j, n in enumerate(out_channels)
        ]
        sums = [None if out is None else moments_for(out.shape, moments) for out in outputs]
        kernels.octave_conv2d(inputs, weight, outputs, stride, sums)
        ctx.stride = stride
        ctx.shapes = [None if out is None else out.shape for out in outputs]
        ctx.save_for_backward(weight, inputs)
        return tuple(None if out is None else result(out, s) for out, s in zip(outputs, sums, strict=True))

    @staticmethod
    def backward(ctx, *grads):
        weight, inputs = ctx.saved
        grad_weight = ctx.array(0)
        # An output that nobody used still has its share of the weight's rows.
        grads = [
            None if shape is None else DeferredGradient.of(zeros(shape, weight.dtype) if g is None else g)
            for g, shape in zip(grads, ctx.shapes, strict=True)
        ]
        same = [*grads, *[None] * len(inputs)]  # output i may have the shape of input i
        slots = [None if x is None else ctx.target(i + 1, same[i]) for i, x in enumerate(inputs)]
        kernels.octave_conv2d_backward(grads, inputs, weight, ctx.stride, slots, grad_weight)
        return grad_weight, *slots

    @staticmethod
    def cost(
        weight: Shape, *inputs: Shape | None, out_channels: Sequence[int], stride: int = 1, itemsize: int = 4,
        backward: bool = False, grad_inputs: bool = True,
    ) -> Cost:  # fmt: skip
        """From the shapes of weight and inputs (None for a missing branch). Resampling counts one operation per element
        that is averaged or compared, and eight per element that is interpolated. grad_inputs: whether the inputs'
        gradients are wanted; those of an image are not."""
        scale = 2 if stride == 2 else 1
        level, first = next((i, x) for i, x in enumerate(inputs) if x is not None)
        height, width = (first[2] << level) // scale, (first[3] << level) // scale
        taps = weight[2] * weight[3]
        flops = resampling = 0
        for i, x in enumerate(inputs):
            if x is None:
                continue
            resampling += elements(x) if stride == 2 else 0
            for j, outs in enumerate(out_channels):
                at = max(i, j)
                pixels = first[0] * (height >> at) * (width >> at)
                flops += 2 * pixels * x[1] * outs * taps
                if i < j and outs:
                    resampling += pixels * x[1] << 2 * (j - i)
                if i > j:
                    resampling += 8 * (pixels << 2 * (i - j)) * outs
        outputs = [(first[0], n, height >> j, width >> j) for j, n in enumerate(out_channels)]
        if backward:
            passes = 1 + grad_inputs
            maps = elements(*outputs, *outputs) + passes * elements(*inputs)
            return Cost(passes * (flops + resampling), itemsize * (maps + elements(weight, weight)))
        return Cost(flops + resampling, itemsize * elements(*outputs, *inputs, weight))


def _check(weight, inputs, out_channels, stride):
    """Raises on anything that does not fit; returns the size of output 0."""
    given = [(i, x) for i, x in enumerate(inputs) if x is not None]
    require(len(given) > 0, OP, "inputs", "has no branch with channels", "at least one")
    require(sum(out_channels) > 0, OP, "out_channels", f"is {out_channels}", "at least one channel")
    require(stride in (1, 2), OP, "stride", f"is {stride!r}", "1 or 2")
    require(
        weight.ndim == 4 and weight.shape[2] == weight.shape[3] and weight.shape[2] % 2 == 1, OP, "weight",
        f"has shape {tuple(weight.shape)}", "(sum O, sum C, k, k) with an odd k",
    )  # fmt: skip
    level, first = given[0]
    height, width = first.shape[2] << level, first.shape[3] << level
    for i, x in given:
        require_dtype(x, weight, OP, f"inputs[{i}]", "weight")
        expected = (first.shape[0], x.shape[1], height >> i, width >> i)
        require(
            x.shape == expected, OP, f"inputs[{i}]", f"has shape {x.shape}",
            f"{expected}, half the size of the branch before",
        )  # fmt: skip
    levels = max(given[-1][0], max(j for j, n in enumerate(out_channels) if n))
    multiple = stride << levels
    require(
        height % multiple == 0 and width % multiple == 0 and height and width, OP, "inputs",
        f"have size {height}x{width} at the finest branch", f"a positive multiple of {multiple}",
    )  # fmt: skip
    channels = sum(x.shape[1] for _, x in given)
    require(
        weight.shape[:2] == (sum(out_channels), channels), OP, "weight", f"has shape {tuple(weight.shape)}",
        f"{sum(out_channels)} output channels (`out_channels` {out_channels}) and {channels} input channels",
    )  # fmt: skip
    return height // stride, width // stride
