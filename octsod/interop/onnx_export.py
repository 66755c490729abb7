"""CSNet as an ONNX graph, for other engines: batch norm folded into the convolutions, few and large nodes.

Everything that an output of a gOctConv reads at its own scale (the max-pooled finer branches and its own branch) is
concatenated and convolved at once. Weight scale and batch norm are folded into weights and biases in float64, which are
then rounded to float32.
"""

import functools
import os
from typing import TYPE_CHECKING

import numpy as np

from .. import __version__
from ..checks import require, require_integer
from ..data.images import MEAN, STD
from ..errors import OctsodError
from ..files import write_atomically
from ..models import CSNet
from ..models.configuration import IMAGE
from ..models.files import require_salience

if TYPE_CHECKING:
    import onnx

OPSET, IR_VERSION = 17, 8  # from 2022: every engine in use can read them

DESCRIPTION = """\
CSNet, salient object detection. `image` (N, 3, H, W): pictures resized to H x W bilinearly (half-pixel centres, no \
anti-aliasing), RGB in [0, 1], minus {mean}, divided by {std} per channel. `logits` (N, 1, H, W); `salience`: their \
sigmoid, how likely each pixel belongs to the object."""


def export_onnx(model: CSNet, path: str | os.PathLike[str], size: tuple[int, int] | None = None) -> None:
    """Write a CSNet to an ONNX file, all or nothing: see `to_onnx`."""
    write_atomically(path, to_onnx(model, size).SerializeToString())


def to_onnx(model: CSNet, size: tuple[int, int] | None = None) -> "onnx.ModelProto":
    """A CSNet in eval mode as an `onnx.ModelProto` in float32, for batches of any length, with pictures of one size.

    size: (height, width); by default, the square that the network was trained at.

    Input `image` (N, 3, H, W), normalised pictures; outputs `logits` (N, 1, H, W), as from `model(x)`, and `salience`,
    their sigmoid. Its doc_string says how to normalise; its metadata hold `mean`, `std` and the network's
    `configuration`. Raises ValueError if the network does not find salient objects or does not accept this size,
    OctsodError without the onnx package.
    """
    require_salience(model, "export_onnx")
    try:
        import onnx
    except ImportError as error:
        raise OctsodError("export_onnx: needs the onnx package; `pip install onnx` brings it.") from error
    op, multiple = "export_onnx", model.configuration.multiple
    if size is None:
        size = model.size, model.size
    require(np.shape(size) == (2,), op, "size", f"is {size!r}", "(height, width)")
    height, width = (require_integer(n, op, "size", 1) for n in size)
    for n in (height, width):
        require(n % multiple == 0, op, "size", f"is {height}x{width}", f"multiples of {multiple}")
    graph = _Graph(onnx)
    _csnet(graph, model)
    mean, std = (f"[{', '.join(map(str, values))}]" for values in (MEAN, STD))
    image, logits, salience = (
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["N", channels, height, width])
        for name, channels in (("image", 3), ("logits", 1), ("salience", 1))
    )
    proto = onnx.helper.make_model(
        onnx.helper.make_graph(graph.nodes, "csnet", [image], [logits, salience], graph.constants),
        producer_name="octsod", producer_version=__version__, doc_string=DESCRIPTION.format(mean=mean, std=std),
        ir_version=IR_VERSION, opset_imports=[onnx.helper.make_opsetid("", OPSET)],
    )  # fmt: skip
    facts = {"mean": mean, "std": std, "configuration": model.configuration.to_json()}
    onnx.helper.set_model_props(proto, facts)
    return proto


class _Graph:
    """Nodes and constants of a graph. A map is identified by its name, that of the node that makes it."""

    def __init__(self, onnx):
        self.onnx, self.nodes, self.constants = onnx, [], []

    def constant(self, name, array):
        self.constants.append(self.onnx.numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def node(self, operator, inputs, name, **attributes):
        self.nodes.append(self.onnx.helper.make_node(operator, inputs, [name], name, **attributes))
        return name

    def convolve(self, x, weight, bias, name, dilation=1, groups=1):
        """A convolution that keeps the size. weight (O, I, k, k), bias (O,) or None."""
        inputs = [x, self.constant(f"{name}.weight", _rounded(weight))]
        if bias is not None:
            inputs.append(self.constant(f"{name}.bias", _rounded(bias)))
        k = weight.shape[2]
        return self.node(
            "Conv", inputs, name, kernel_shape=[k, k], dilations=[dilation] * 2, pads=[dilation * (k // 2)] * 4,
            group=groups,
        )  # fmt: skip

    def prelu(self, x, norm, name):
        slope = _rounded(norm.slope.numpy()).reshape(-1, 1, 1)
        return self.node("PRelu", [x, self.constant(f"{name}.slope", slope)], name)

    def pool(self, operator, x, name):
        return self.node(operator, [x], name, kernel_shape=[2, 2], strides=[2, 2])

    def concatenate(self, maps, name):
        return maps[0] if len(maps) == 1 else self.node("Concat", maps, name, axis=1)

    def upsample(self, x, factor, name):
        """Bilinear, half-pixel centres, replicated border."""
        scales = f"upsample{factor}.scales"
        if all(constant.name != scales for constant in self.constants):
            self.constant(scales, np.array([1, 1, factor, factor], np.float32))
        settings = {"mode": "linear", "coordinate_transformation_mode": "half_pixel"}
        return self.node("Resize", [x, "", scales], name, **settings)


def _rounded(array):
    """In float32, with subnormal values set to zero, since some processors take 100 times longer over them."""
    rounded = array.astype(np.float32)
    return np.where(np.abs(rounded) < np.finfo(np.float32).tiny, np.float32(0), rounded)


def _csnet(graph, model):
    maps = {(IMAGE, 0): "image"}
    *layers, (classifier, last) = ((layer, module) for layer, module in model.layers() if not layer.training_only)
    for layer, module in layers:
        outputs = _LAYERS[layer.kind](graph, layer, module, [read and maps[read] for read in layer.reads])
        maps.update({(layer.name, branch): name for branch, name in enumerate(outputs)})
    (read,) = classifier.reads
    x = graph.convolve(maps[read], last.weight.numpy(), last.bias.numpy(), classifier.name)
    scale = classifier.scale
    logits = graph.upsample(x, 1 << scale, "logits") if scale else graph.node("Identity", [x], "logits")
    graph.node("Sigmoid", [logits], "salience")


# Each takes and returns one name per branch, None for a missing one, and ends with batch norm and PReLU. layer: the
# description of the module.


def _octave(graph, layer, module, inputs):
    if layer.stride == 2:
        inputs = [x and graph.pool("AveragePool", x, f"{layer.name}.average{i}") for i, x in enumerate(inputs)]

    @functools.cache
    def same(j):
        """All that output j reads at its own scale: the max-pooled finer branches and branch j; None if nothing."""
        finer = same(j - 1) if j else None
        maps = [finer and graph.pool("MaxPool", finer, f"{layer.name}.{j}.max"), *inputs[j : j + 1]]
        maps = [x for x in maps if x is not None]
        return graph.concatenate(maps, f"{layer.name}.{j}.same") if maps else None

    weight = module.effective_weight(module.weight, np.float64)
    outputs = []
    for j, norm in enumerate(module.norms):
        if norm is None:
            outputs.append(None)
            continue
        at = f"{layer.name}.{j}"
        scale, bias = norm.affine()
        first = sum(layer.outputs[:j])
        rows = weight[first : first + scale.size] * scale[:, None, None, None]
        columns = np.split(rows, np.cumsum(layer.inputs)[:-1], axis=1)
        maps, weights, far = [same(j)] if same(j) else [], columns[: j + 1], []
        for i in range(j + 1, len(inputs)):
            if inputs[i] is None:
                continue
            # A 1x1 convolution may as well follow the upsampling; engines are slow at that, so take the fewer channels.
            if layer.kernel_size == 1 and layer.inputs[i] < scale.size:
                maps.append(graph.upsample(inputs[i], 1 << (i - j), f"{at}.upsample{i}"))
                weights.append(columns[i])
            else:
                far.append(i)
        terms = []
        if maps:
            x = graph.concatenate(maps, f"{at}.concat")
            terms.append(graph.convolve(x, np.concatenate(weights, axis=1), bias, f"{at}.conv"))
        for i in far:
            # Interpolation does not change a bias, so any one of the terms can add it.
            x = graph.convolve(inputs[i], columns[i], None if terms else bias, f"{at}.conv{i}")
            terms.append(graph.upsample(x, 1 << (i - j), f"{at}.upsample{i}"))
        total = functools.reduce(lambda a, b: graph.node("Add", [a, b], f"{b}.sum"), terms)
        outputs.append(graph.prelu(total, norm, at))
    return outputs


def _depthwise(graph, layer, module, inputs):
    outputs = []
    for i, (x, weight, norm) in enumerate(zip(inputs, module.weights, module.norms, strict=True)):
        if norm is not None:
            scale, bias = norm.affine()
            rows = module.effective_weight(weight, np.float64) * scale[:, None, None, None]
            x = graph.convolve(x, rows, bias, f"{layer.name}.{i}.conv", groups=scale.size)
            x = graph.prelu(x, norm, f"{layer.name}.{i}")
        outputs.append(x)
    return outputs


def _dilated(graph, layer, module, inputs):
    outputs = []
    for i, (x, weights, norm) in enumerate(zip(inputs, module.weights, module.norms, strict=True)):
        if norm is None:
            outputs.append(None)
            continue
        affine, first, maps = np.stack(norm.affine()), 0, []
        for weight, dilation in zip(weights, module.dilations, strict=True):
            if weight is not None:
                scale, bias = affine[:, first : first + weight.shape[0]]
                rows = module.effective_weight(weight, np.float64) * scale[:, None, None, None]
                maps.append(graph.convolve(x, rows, bias, f"{layer.name}.{i}.conv{dilation}", dilation))
                first += weight.shape[0]
        x = graph.concatenate(maps, f"{layer.name}.{i}.concat")
        outputs.append(graph.prelu(x, norm, f"{layer.name}.{i}"))
    return outputs


_LAYERS = {"octave": _octave, "depthwise": _depthwise, "dilated": _dilated}  # by `Layer.kind`
