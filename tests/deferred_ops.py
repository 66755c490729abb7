"""The ops with what layers ask them for besides their results: moments of raw maps, sums of activations."""

from octsod import ops


def conv2d(x, weight, bias=None, **keywords):
    return ops.Conv2d.apply(x, weight, bias, **keywords)


def depthwise_conv2d(x, weight, **keywords):
    return ops.DepthwiseConv2d.apply(x, weight, **keywords)


def dilated_conv2d(x, weights, dilations, **keywords):
    return ops.DilatedConv2d.apply(x, *weights, dilations=dilations, **keywords)


def octave_conv2d(inputs, weight, out_channels, stride=1, **keywords):
    return list(ops.OctaveConv2d.apply(weight, *inputs, out_channels=out_channels, stride=stride, **keywords))


def batch_norm_prelu(x, running_mean, running_var, weight, bias, slope, training=True, **keywords):
    settings = {"momentum": 0.1, "eps": 1e-5, "activation_sums": None, **keywords}
    (y,) = ops.BatchNormPReLU.apply(
        x, weight, bias, slope, running=[(running_mean, running_var)], training=[training],
        **{name: [value] for name, value in settings.items()},
    )  # fmt: skip
    return y


def depthwise_chain(x, layers, running, training=True, activation_sums=None, **keywords):
    (y,) = ops.DepthwiseChain.apply(
        x, *(parameter for layer in layers for parameter in layer), running=[running], training=training,
        activation_sums=None if activation_sums is None else [activation_sums], **keywords,
    )  # fmt: skip
    return y
