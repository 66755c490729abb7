"""What every kernel promises, and the table of all kernels.

A backend is a module `octsod.kernels.NAME` that has the functions of `Contract`. Ops call them with positional
arguments and never ask which backend they have. The reference (kernels/reference) is the same table in plain NumPy: it
says in code what the docstrings below say in words. tests/kernel_contract.py checks every other backend against it.

Promises
--------
- The caller allocates and validates: arrays are checked where they enter the library (arrays.py), not at each launch.
  So a kernel checks nothing and raises nothing, with one exception: rather than write to a copy of an output that is
  laid out in a way it cannot write, which would lose the results, a kernel raises ValueError.
- A kernel writes all elements of its outputs, and nothing else. It reads nothing outside its inputs, and no output
  before it has written it. A docstring names what is updated instead: there, old values count.
- Outputs do not overlap inputs, unless a docstring says that they may.
- Inputs stay as they were. So does the caller's floating-point mode.
- Results are the same bits for any number of threads and from run to run. So sums over images are kept per image and
  added up in a fixed order; there are no atomic additions of floating-point numbers.
- Subnormal results are flushed to zero. (The reference alone keeps them.)
- Infinity and NaN are numbers like any other: no error, no warning. A NaN reaches those results that depend on it. It
  wins in max-pooling.
- Results agree with the reference's: within 1e-4 in float32, 1e-12 in float64, of the largest result or of 1, whichever
  is more.
- A kernel of a device that is not the host does not wait for it. It may return before the work is done; kernels of a
  device take effect in the order of their calls. So what is launched depends on no element of an array.
- A backend may lack a kernel. To call that raises NotImplementedError, which names both.

Arrays
------
Arrays are C-contiguous and aligned, in native byte order, and may begin at any element of a larger buffer. On a host,
outputs are writable; inputs may be read-only views, which the ops of users get. Maps are NCHW, weights OIHW, both
float32 or float64. All floating-point arrays of a call have one dtype, unless a docstring says otherwise. A batch may
be empty, and a map may have no channels; height and width are at least 1. `Array` says what an array of a device has.
Settings such as `stride` are plain Python numbers and bools.

Sums over pixels are float64 arrays, whatever the dtype of the maps:

activation_sums (N, C)
    The sum of the activation over each plane. Each kernel that reads a map in a forward pass asks the map for the
    array to fill, once: `x.claim_activation_sums()`, which gives it to the first reader only. A kernel without output
    elements need not ask.
moments (N, 3, C)
    Of a raw map: a reference value r near the plane's values, the sum of x - r, and the sum of (x - r)**2. A backend
    chooses r as it likes. With r = 0, a large mean would swallow a small variance. The moments are those of the values
    as stored, after rounding.
gradient_sums (N, 3, C)
    What batch norm needs of g, the gradient of the activation `prelu(u, slope)` with u = raw*scale + shift. With
    e = g*prelu'(u): the sum of e, the sum of e*(raw - mean), and the sum of g*u where u <= 0.

prelu(u, slope) is u where u > 0, else slope*u; prelu'(u) is 1 where u > 0, else slope.

Maps and gradients that have not been computed
----------------------------------------------
deferred.py has these types, with their formulas. A kernel applies a formula while it loads.

Deferred
    A map to read. Where its coefficients are None, it is the raw map itself.
DeferredGradient
    The gradient of a raw map, to read. Where its coefficients are None, it is `g` itself.
ActivationGradient
    The gradient of a normalised map, to read: an array, with its gradient sums or without.
GradientTarget
    Where to write the gradient of a map's activation; None where that is not wanted. With `accumulate`, the gradient is
    added to what `array` holds; else it overwrites that. If `gradient_sums` is not None, the gradient sums of what
    `array` holds afterwards are written there.

A gradient is *spent* when no other op needs it. Its `g` may then be the very array of a `GradientTarget` of the same
call: a kernel reads each element that it still needs before it writes there. Targets of this kind never accumulate.
Whether that is of use, a backend's module says: `IN_PLACE` is True where what has just been read is still in a cache
when it is written over, and False where a kernel would have to copy it first.

What stays in a cache
---------------------
Costs (`Function.cost`) count floating-point operations and compulsory bytes, from shapes alone. Bytes depend on the
backend only where a kernel runs several layers at once. It may keep the maps between its layers in a cache, or store
and load each of them. A backend's module says which of its kernels keep them: `CACHED`, a frozenset of names, which is
`device.kernels.CACHED`. The cost of an op with such a kernel takes `cached`: True counts only the maps that have to be
stored, False counts each layer by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from .deferred import ActivationGradient, Deferred, DeferredGradient, GradientTarget


class Array(Protocol):
    """What the library uses of an array of a device.

    No arithmetic, no `len`, no truth value, no `__array__`: numbers come to the host through `Device.get` alone.
    """

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> Any:
        """A NumPy dtype."""

    @property
    def ndim(self) -> int: ...

    @property
    def size(self) -> int: ...

    @property
    def reshape(self) -> Callable[..., Any]:
        """`reshape(*shape)` or `reshape(shape)`: a view."""

    def __getitem__(self, index: Any, /) -> Any:
        """A view, by integers and slices of step 1 along leading axes."""


class Contract(Protocol):
    """The kernels, each with the names, order and defaults of its parameters."""

    CACHED: frozenset[str]
    IN_PLACE: bool

    # --- arrays as a whole -------------------------------------------------------------------------------------------

    def fill(self, out: Array, value: float) -> None:
        """Every element of out = value, a Python number. out: any shape and dtype."""

    def copy(self, x: Array, out: Array) -> None:
        """out = x, broadcast to out's shape and converted to its dtype."""

    def gather(self, arrays: Sequence[Array], out: Array) -> None:
        """out (n,) = the elements of all arrays, one array after the other, converted from any dtypes to out's."""

    def transpose(self, x: Array, axes: Sequence[int], out: Array) -> None:
        """out = x with its axes in another order: axis i of out is axis axes[i] of x. Any dtype."""

    def strided_slice(self, x: Array, starts: Sequence[int], steps: Sequence[int], out: Array) -> None:
        """out[i, j, ...] = x[starts[0] + i*steps[0], starts[1] + j*steps[1], ...]. Any dtype, and as many axes for out
        as for x. Steps are not 0, but may be negative."""

    def strided_slice_backward(self, grad: Array, starts: Sequence[int], steps: Sequence[int], grad_x: Array) -> None:
        """grad_x = the gradient of x: grad in the place of the slice, zero elsewhere."""

    def concatenate(self, arrays: Sequence[Array], out: Array) -> None:
        """out (outer, sum n_i, inner) = arrays of shapes (outer, n_i, inner), side by side along the middle axis. Any
        dtype, the same for all."""

    # --- arithmetic, element by element; out may be one of the inputs of its shape -----------------------------------
    # The inputs of `add`, `subtract`, `multiply` and `divide` are broadcast to out's shape; all others have that shape.

    def add(self, a: Array, b: Array, out: Array) -> None:
        """out = a + b."""

    def subtract(self, a: Array, b: Array, out: Array) -> None:
        """out = a - b."""

    def multiply(self, a: Array, b: Array, out: Array) -> None:
        """out = a * b."""

    def divide(self, a: Array, b: Array, out: Array) -> None:
        """out = a / b."""

    def power(self, a: Array, exponent: Array, out: Array) -> None:
        """out = a ** exponent, an array of one element."""

    def exp(self, x: Array, out: Array) -> None:
        """out = e ** x."""

    def log(self, x: Array, out: Array) -> None:
        """out = the natural logarithm of x: -inf of zero, NaN of what is less. A subnormal x counts as zero."""

    def sqrt(self, x: Array, out: Array) -> None:
        """out = the square root of x, NaN of what is less than zero."""

    def relu(self, x: Array, out: Array) -> None:
        """out = 0 where x <= 0, else x."""

    def relu_backward(self, grad: Array, x: Array, out: Array) -> None:
        """out = 0 where x <= 0, else grad."""

    def dropout(self, x: Array, probability: float, seed: int, out: Array) -> None:
        """out = 0 for the share `probability`, in [0, 1), of all elements, else x / (1 - probability).

        Which elements those are is a function of the seed, in [0, 2**63), and of an element's number i in C order, the
        same on every backend. In integers modulo 2**64, with G = 0x9E3779B97F4A7C15 and mix(z) that of SplitMix64
        (Steele, Lea and Flood 2014), element i is 0 where
        mix(mix(seed) + (i + 1)*G) >> 11 < int(probability * 2**53).

        mix(z): z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9, then z = (z ^ z >> 27) * 0x94D049BB133111EB, then z ^ z >> 31.
        """

    # --- sums, maxima, products --------------------------------------------------------------------------------------

    def sum_middle(self, x: Array, out: Array) -> None:
        """out (outer, inner) = x (outer, count, inner) added up over its middle axis, in float64."""

    def max_middle(self, x: Array, out: Array) -> None:
        """out (outer, inner) = the largest of x (outer, count, inner) along its middle axis, with count at least 1. A
        NaN wins."""

    def max_middle_backward(self, grad: Array, x: Array, grad_x: Array) -> None:
        """grad_x = the gradient of x: grad (outer, inner) goes to the largest element, the first one of equal ones; to
        the first NaN, if there is any."""

    def matmul(self, a: Array, b: Array, out: Array, transpose_a: bool = False, transpose_b: bool = False) -> None:
        """out (B, M, N) = the products of B pairs of matrices, a (B, M, K) times b (B, K, N).

        With transpose_a, a is (B, K, M); with transpose_b, b is (B, N, K). K may be 0. NaN and infinity times zero are
        NaN, as everywhere.
        """

    # --- sigmoid and losses ------------------------------------------------------------------------------------------

    def sigmoid(self, x: Array, out: Array) -> None:
        """out = 1 / (1 + exp(-x)), without overflow; any shape. out may be x."""

    def sigmoid_backward(self, grad: Array, x: Array, out: Array) -> None:
        """out = grad * sigmoid(x) * (1 - sigmoid(x)). out may be grad or x."""

    def binary_cross_entropy_with_logits(self, logits: Array, target: Array, out: Array) -> None:
        """out, one element, = the mean of `max(x, 0) - x*t + log(1 + exp(-|x|))`, with logits x and target t of one
        shape, of one element or more."""

    def binary_cross_entropy_with_logits_backward(
        self, grad: Array, logits: Array, target: Array, grad_logits: Array
    ) -> None:
        """grad_logits = grad * (sigmoid(logits) - target) / size. grad: one element; size: the number of logits."""

    def overlap_loss(self, logits: Array, target: Array, region: str, sums: Array, out: Array) -> None:
        """out, one element, = the mean over pictures of 1 - I/U, of logits and target (N, n), with N at least 1.

        With p = sigmoid(logits), t the target and sums over a picture: if region is "iou", I = sum(p*t) + 1 and
        U = sum(p) + sum(t) - sum(p*t) + 1; if it is "dice", I = 2*sum(p*t) + 1 and U = sum(p) + sum(t) + 1. sums (N, 2)
        float64 = I and U of each picture.
        """

    def overlap_loss_backward(
        self, grad: Array, logits: Array, target: Array, region: str, sums: Array, grad_logits: Array
    ) -> None:
        """The gradient of the logits, from that of `overlap_loss`'s output, one element, and its sums."""

    def log_softmax(self, x: Array, out: Array) -> None:
        """out = x - log(the sum of exp(x)), where the sum is over the middle axis of x (outer, count, inner), of at
        least 1; without overflow. out may be x."""

    def log_softmax_backward(self, grad: Array, out: Array, grad_x: Array) -> None:
        """grad_x = grad - exp(out) * (the sum of grad over the middle axis), from the output of `log_softmax`. grad_x
        may be grad."""

    def cross_entropy(self, logits: Array, labels: Array, smoothing: float, out: Array) -> None:
        """out, one element, = the mean over the rows of logits (N, K) of -(1 - s)*p[label] - s/K * (the sum of p).

        p is `log_softmax` of the row, s the smoothing, in [0, 1]; a term whose factor is 0 is left out. labels (N,)
        int64; N and K at least 1. A label outside of [0, K) makes the mean NaN.
        """

    def cross_entropy_backward(
        self, grad: Array, logits: Array, labels: Array, smoothing: float, grad_logits: Array
    ) -> None:
        """grad_logits = grad/N * (softmax(logits) - s/K - (1 - s where k is the label)). grad: one element. NaN in the
        rows of labels outside of [0, K)."""

    # --- convolutions: cross-correlations with zero padding ----------------------------------------------------------

    def conv2d(
        self, x: Deferred, weight: Array, bias: Array | None, out: Array, stride: int, padding: int, dilation: int,
        moments: Array | None = None,
    ) -> None:  # fmt: skip
        """out (N, O, H', W') = x (N, C, H, W) convolved with weight (O, C, kh, kw), plus bias (O,) if there is one.

        out[n, o, r, s] = bias[o] + the sum over c, i, j of
        weight[o, c, i, j] * x[n, c, r*stride - padding + i*dilation, s*stride - padding + j*dilation];
        H' = (H + 2*padding - dilation*(kh - 1) - 1)//stride + 1, W' likewise. moments: those of out, if not None.
        """

    def conv2d_backward(
        self, grad: DeferredGradient, x: Deferred, weight: Array, stride: int, padding: int, dilation: int,
        grad_x: GradientTarget | None, grad_weight: Array | None, grad_bias: Array | None = None,
    ) -> None:  # fmt: skip
        """Gradients of `conv2d`, from grad, that of its output. None for each that is not wanted."""

    def depthwise_conv2d(
        self, x: Deferred, weight: Array, out: Array, stride: int, padding: int, dilation: int,
        moments: Array | None = None,
    ) -> None:  # fmt: skip
        """out (N, C, H', W') = each channel of x (N, C, H, W) convolved with its own kernel, weight (C, 1, kh, kw).
        Sizes and moments as in `conv2d`."""

    def depthwise_conv2d_backward(
        self, grad: DeferredGradient, x: Deferred, weight: Array, stride: int, padding: int, dilation: int,
        grad_x: GradientTarget | None, grad_weight: Array | None,
    ) -> None:  # fmt: skip
        """Gradients of `depthwise_conv2d`. None for each that is not wanted."""

    def dilated_conv2d(
        self, x: Deferred, weights: Sequence[Array], dilations: Sequence[int], out: Array,
        moments: Array | None = None, weight_scale: float = 1.0,
    ) -> None:  # fmt: skip
        """out (N, sum O_i, H, W) = several convolutions of x (N, C, H, W), their outputs one after the other.

        Convolution i has weights[i] (O_i, C, k, k), with one odd k for all, and dilations[i]; it is padded to keep the
        size. O_i may be 0. Weights are multiplied by weight_scale. moments: those of out, if not None.
        """

    def dilated_conv2d_backward(
        self, grad: DeferredGradient, x: Deferred, weights: Sequence[Array], dilations: Sequence[int],
        grad_x: GradientTarget | None, grad_weights: Sequence[Array | None], weight_scale: float = 1.0,
    ) -> None:  # fmt: skip
        """Gradients of `dilated_conv2d`. None for each that is not wanted."""

    def octave_conv2d(
        self, inputs: Sequence[Deferred | None], weight: Array, outputs: Sequence[Array | None], stride: int,
        moments: Sequence[Array | None] | None = None,
    ) -> None:  # fmt: skip
        """gOctConv (paper, section 3.1; csnet.md, section 1): outputs = what inputs give through weight.

        inputs[i] (N, C_i, H >> i, W >> i) and outputs[j] (N, O_j, H' >> j, W' >> j), finest first; None for a branch
        without channels. weight (sum O, sum C, k, k), k odd: block (j, i) of it leads from input i to output j.

        With stride 2, every input is averaged 2x2 first, and H' = H/2; else stride is 1. outputs[j] is the sum over i
        of conv(x_i), padded to keep the size: of x_i as it is for i = j; of x_i max-pooled by 2**(j - i) for i < j; for
        i > j the result is upsampled by 2**(i - j), as by `upsample_bilinear`. moments: one array or None per output.
        """

    def octave_conv2d_backward(
        self, grads: Sequence[DeferredGradient | None], inputs: Sequence[Deferred | None], weight: Array, stride: int,
        grad_inputs: Sequence[GradientTarget | None], grad_weight: Array | None,
    ) -> None:  # fmt: skip
        """Gradients of `octave_conv2d`. grads: one per output, None for a branch without channels. None for each
        gradient that is not wanted. Max-pooling's winners are found again; of equal ones, the first has the gradient.
        """

    # --- several depthwise layers in one go --------------------------------------------------------------------------
    #
    # Of several maps, such as the branches of a layer: arguments up to `activation_sums`, `between` and the gradients
    # are sequences with an entry for each map. Docstrings speak of one of them.

    def depthwise_chain(
        self, inputs: Sequence[Deferred], layers: Sequence[Sequence[Sequence[Array]]],
        running: Sequence[Sequence[tuple[Array, Array]]], raw: Sequence[Array], coefficients: Sequence[Array],
        statistics: Sequence[Array], activation_sums: Sequence[Sequence[Array | None]], training: bool,
        momentum: float, eps: float, weight_scale: float,
    ) -> None:  # fmt: skip
        """x (N, C, H, W), of `inputs`, through L layers, each a depthwise convolution, batch norm and PReLU.

        raw (L, N, C, H, W): the convolutions' outputs. coefficients (L, 4, C): those that make of each the deferred map
        which the next layer reads, as of `batch_norm`. The first layer reads x.

        layers: of each, weight (C, 1, k, k), then norm weight, norm bias and slope (C,). One odd k for all layers,
        padded to keep the size. Weights are multiplied by weight_scale. running: of each layer, mean and variance (C,),
        in any floating-point dtype; updated in training as by `batch_norm`, used outside of it. statistics
        (L, 2, C) float64: the mean and variance that were used. activation_sums: of each layer, the array for those of
        the map that it reads, or None: the caller has claimed them.
        """

    def depthwise_chain_backward(
        self, grads: Sequence[ActivationGradient], inputs: Sequence[Deferred],
        layers: Sequence[Sequence[Sequence[Array]]], raw: Sequence[Array], coefficients: Sequence[Array],
        statistics: Sequence[Array], training: bool, eps: float, weight_scale: float, between: Sequence[Array],
        grad_inputs: Sequence[GradientTarget | None], grad_layers: Sequence[Sequence[Sequence[Array]]],
    ) -> None:  # fmt: skip
        """Gradients of `depthwise_chain`, from grad, that of the last layer's activation.

        grad_layers: of each layer, four arrays like those in `layers`. between (N, C, H, W): scratch memory for the
        gradients of the activations between layers. It may be grad's array, if that is spent, or that of grad_x, of
        `grad_inputs`, if that is not added to; all three may be one.
        """

    # --- batch norm, PReLU, deferred maps ----------------------------------------------------------------------------

    def activate(self, x: Deferred, out: Array) -> None:
        """out (N, C, H, W) = the map that x stands for."""

    def differentiate(self, grad: DeferredGradient, out: Array) -> None:
        """out (N, C, H, W) = the gradient that grad stands for."""

    def channel_moments(self, x: Array, moments: Array) -> None:
        """moments (N, 3, C): those of the array x (N, C, H, W)."""

    def gradient_sums(self, g: Array, x: Deferred, sums: Array) -> None:
        """sums (N, 3, C): the gradient sums of g (N, C, H, W), the gradient of the activation of x."""

    def batch_norm(
        self, moments: Sequence[Array | None], pixels: Sequence[int], momentum: Sequence[float], eps: Sequence[float],
        parameters: Sequence[Sequence[Array]], running: Sequence[Sequence[Array | None]], statistics: Sequence[Array],
        coefficients: Sequence[Array],
    ) -> None:  # fmt: skip
        """Batch norm and PReLU of several raw maps at once, such as the branches of a layer: all that their readers
        need to apply both.

        Of map i, parameters[i]: weight, bias and slope (C_i,). running[i]: mean and variance (C_i,), each of any
        floating-point dtype. statistics[i] (2, C_i) float64 = the mean and the variance that are used: those of a batch
        with moments[i] (N_i, 3, C_i) and pixels[i] to a plane, or, where moments[i] is None, the running ones.

        A batch has M = N*pixels values to a channel. Its variance is the biased one, over M; and the running ones are
        updated, each unless it is None: mean = (1 - momentum)*mean + momentum*(the batch's), and the variance likewise
        with the unbiased one, over max(M - 1, 1).

        coefficients[i] (4, C_i) = scale, shift, slope and mean of
        `prelu((x - mean)/sqrt(variance + eps)*weight + bias, slope)`: scale = weight/sqrt(variance + eps), and
        shift = bias - mean*scale.
        """

    def batch_norm_backward(
        self, sums: Sequence[Array], counts: Sequence[int], training: Sequence[bool], eps: Sequence[float],
        parameters: Sequence[Sequence[Array]], statistics: Sequence[Array], coefficients: Sequence[Array],
        gradients: Sequence[Sequence[Array]],
    ) -> None:  # fmt: skip
        """Backward of `batch_norm`: from sums[i] (N_i, 3, C_i), the gradient sums of the activations, to
        coefficients[i] (6, C_i), which make of g the raw map's `DeferredGradient`: scale, shift, slope, k0, k1, k2;
        and to gradients[i], those of parameters[i].

        With D = 1/sqrt(variance + eps), counts[i] = M values to a channel, x the raw map and e as in gradient_sums:
        that of the bias = sum e, of the weight = D * sum e*(x - mean), of the slope = sum of g*u where u <= 0. The raw
        map's gradient is weight*D * e; in training, where mean and variance depend on x, too, it is
        weight*D * (e - (bias's)/M - (x - mean)*D * (weight's)/M).
        """

    def prelu_coefficients(self, slope: Array, out: Array) -> None:
        """out (4, C) = scale 1, shift 0, slope (C,) and mean 0: the coefficients of `prelu(x, slope)`."""

    def prelu_backward(self, sums: Array, slope: Array, out: Array, grad_slope: Array | None) -> None:
        """Backward of `prelu(x, slope)`, from gradient sums (N, 3, C): out (6, C) = scale, shift, slope, k0, k1, k2 of
        the gradient of x; grad_slope (C,) = the sum of g*x where x <= 0, if it is wanted."""

    # --- pooling and resizing ----------------------------------------------------------------------------------------

    def max_pool2d(self, x: Array, out: Array, kernel_size: int, stride: int, padding: int) -> None:
        """out (N, C, H', W') = the largest of each window of x (N, C, H, W); padding never wins.

        Windows are square; H' = (H + 2*padding - kernel_size)//stride + 1, W' likewise.
        """

    def max_pool2d_backward(
        self, grad: Array, x: Array, grad_x: Array, kernel_size: int, stride: int, padding: int
    ) -> None:
        """grad_x = the gradient of x: that of each window goes to its largest element, the first one of equal ones."""

    def avg_pool2d(self, x: Array, out: Array, kernel_size: int, stride: int, padding: int) -> None:
        """out (N, C, H', W') = the sum of each window of x over kernel_size**2: padding counts, as zeros. Sizes as in
        `max_pool2d`."""

    def avg_pool2d_backward(self, grad: Array, grad_x: Array, kernel_size: int, stride: int, padding: int) -> None:
        """grad_x = the gradient of x: that of each window is spread evenly over it."""

    def upsample_bilinear(self, x: Array, out: Array) -> None:
        """out (N, C, H', W') = x (N, C, H, W) resized bilinearly, up or down, without anti-aliasing.

        Pixel i of the output has its centre at (i + 1/2)*H/H' - 1/2 of the input, clipped to [0, H - 1].
        """

    def upsample_bilinear_backward(self, grad: Array, grad_x: Array) -> None:
        """grad_x = the gradient of x: the adjoint of `upsample_bilinear`."""

    # --- pictures ----------------------------------------------------------------------------------------------------

    def prepare_pictures(
        self, kept: Array, fresh: Array, table: Array, mean: Sequence[float], deviation: Sequence[float], x: Array,
        y: Array | None,
    ) -> None:  # fmt: skip
        """A batch for training: x (N, 3, H', W') = pictures, augmented, resized and normalised; y (N, 1, H', W') =
        their masks in [0, 1], None if they have none.

        The bytes of kept and fresh, two flat arrays of uint8, count as one sequence. It has records, none of which
        lies in both arrays: a picture (H, W, 3), and right after it its mask (H, W), unless y is None. A row of table
        (N, 9 or 12) float64 holds, as whole numbers, the first byte of an image's record; its H and W; top, left,
        height and width of the part that is used, which lies within it; whether that is turned upside down, and whether
        it is mirrored (0 or 1). Of twelve columns, the last are factors: of brightness b, contrast c and saturation s.

        The part is flipped, resized as by `resize_picture`, and divided by 255. If there are factors, each colour v of
        a pixel then becomes c*b*(s*v + (1 - s)*grey) + (1 - c)*b*(mean grey), clipped to [0, 1]: the pixel's grey is
        0.299*red + 0.587*green + 0.114*blue, and the mean that of all pixels of the resized part. At last, v becomes
        (v - mean)/deviation; of both there are three, for red, green and blue.

        The backend for processors lacks this: there, threads prepare pictures with `resize_picture`.
        """

    # --- inference ---------------------------------------------------------------------------------------------------

    def resize_picture(self, picture: Array, scale: Array, shift: Array, out: Array) -> None:
        """out (C, H', W') float32 = picture (H, W, C), uint8 or float32, resized, times scale (C,), plus shift (C,),
        both of any floating-point dtype.

        As `upsample_bilinear`, but pixels beyond the border are those at the same distance inside it. Backends of hosts
        only; it runs in the calling thread, so that threads which read pictures do not wait for those which compute.
        """

    def csnet(self, frozen: Any, x: Array, out: Array) -> None:
        """out (N, 1, H, W) = the logits of a whole network for normalised pictures x (N, 3, H, W).

        frozen: an `octsod.inference.Frozen`, whose arrays are NumPy's on every device. Results are those of the model
        in eval mode.
        """

    # --- what ends a training step -----------------------------------------------------------------------------------
    #
    # state (2,) int64: how many steps the optimiser has made, and whether training has halted (0 or 1). From the first
    # step on that is not finite, nothing moves any more.

    def decay_scales(
        self, metric: str | Sequence[Array], sums: Sequence[Array], pixels: Sequence[int], scales: Sequence[Array],
        factors: Sequence[float], strength: float, gradients: Sequence[Array], penalty: Array,
    ) -> None:  # fmt: skip
        """Dynamic weight decay of all norms at once (paper, equations 3 and 4; csnet.md, section 3).

        Of norm i, gradients[i] (C_i,) is updated: += strength * M_i * scales[i]. penalty, one element in float64, = the
        sum over all i and channels of M_i * scales[i]**2 / 2.

        M_i is factors[i] times: the mean over images of |sums[i] / pixels[i]| if metric is "average_pooling", where
        sums[i] (N, C_i) are the activation sums of maps of pixels[i] pixels; 1 if metric is "constant"; else metric[i],
        an array (C_i,) float64.
        """

    def record_step(
        self, terms: Sequence[Array], gradients: Sequence[tuple[Array, Array]], ring: Array, state: Array
    ) -> None:
        """Note what a training step came to, before it changes anything.

        Row state[0] % R of ring (R, T + 1) float64 becomes the T terms, one element each of any floating-point dtype,
        and a code: 0 if all is finite, else for the first that is not: its number among the terms, from 1, or T + 1 for
        an element of `gradients`: arrays (n,) of any dtypes with the ranges (K, 3) of them that count, see `adam`. Any
        code but 0 sets state[1] to 1. If training has halted, nothing is noted. ring, state: updated.
        """

    def restore_if_halted(self, arrays: Sequence[Array], saved: Array, state: Array) -> None:
        """If training has halted, all arrays = what `gather` has put of them into saved (n,); else nothing happens."""

    def clip_gradients(self, gradients: Sequence[tuple[Array, Array]], max_norm: float) -> None:
        """Bring the norm of all gradients together down to max_norm: each *= min(1, max_norm / (norm + 1e-6)).

        gradients: as in `record_step`; updated where the ranges are. The norm is the root of the sum of all squares, in
        float64. If it is not finite, nothing happens.
        """

    def adam(
        self, parameter: Array, gradient: Array, first: Array, second: Array, ranges: Array, settings: Array,
        state: Array,
    ) -> None:  # fmt: skip
        """One step of Adam or AdamW for parts of the flat arrays parameter, gradient, first and second (n,).

        ranges (K, 3) int64: start, stop and row of settings, for each part. settings (G, 6) float64: learning rate lr,
        beta1, beta2, eps, weight decay w, and whether decay is decoupled (0 or 1). In a part, with p, g, m, v the
        elements and t = state[0] + 1, these are updated: g' = g + w*p, or, if decoupled, g' = g and p -= lr*w*p;
        m = beta1*m + (1 - beta1)*g', v = beta2*v + (1 - beta2)*g'**2,
        p -= lr * m/(1 - beta1**t) / (sqrt(v/(1 - beta2**t)) + eps). If training has halted, nothing happens.
        """

    def sgd(
        self, parameter: Array, gradient: Array, velocity: Array, ranges: Array, settings: Array, state: Array
    ) -> None:
        """One step of gradient descent for parts of the flat arrays parameter, gradient and velocity (n,).

        ranges: as in `adam`. settings (G, 5) float64: learning rate lr, momentum, dampening d, whether momentum is
        Nesterov's (0 or 1), weight decay w. In a part, with p, g, v the elements, these are updated: g' = g + w*p,
        v = momentum*v + (1 - d)*g', p -= lr * (g' + momentum*v if Nesterov's, else v). Nothing is dampened (d = 0) in
        the first step, where state[0] is 0, and without momentum. If training has halted, nothing happens.
        """

    def count_step(self, state: Array) -> None:
        """A step is made: state[0] becomes one more, unless training has halted."""

    def average(self, sources: Sequence[Array], targets: Sequence[Array], weight: float, state: Array) -> None:
        """targets[i] += weight * (sources[i] - targets[i]), for all i: steps of moving averages. The two arrays of a
        pair have one shape and any floating-point dtypes. If training has halted, nothing happens."""


KERNELS = tuple(name for name in vars(Contract) if not name.startswith("_"))
HOST_KERNELS = frozenset({"resize_picture"})  # those that backends of other devices lack
DEVICE_KERNELS = frozenset({"prepare_pictures"})  # those that the backend for processors lacks
