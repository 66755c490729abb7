"""Gradient checks: what backward returns against finite differences."""

import copy
import dataclasses
import functools
import itertools
import math
import statistics
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from ..autograd.mode import is_grad_enabled, no_grad
from ..autograd.tensor import Tensor
from ..backend import device_of
from ..nn import Module
from .finite_differences import PRECISIONS, Weighted, noise, norm
from .gradient_report import GradientError, GradientReport, InconclusiveWarning, relative, reproduction
from .input_check import InputCheck, flat
from .passes import SEED, Passes, random_numbers, signs
from .precision_check import check_precision

ALL_ENTRIES = 64  # inputs of up to so many elements are checked entry by entry
SPREAD_ENTRIES = 20  # at least so many of a larger one, besides corners and borders
LONGEST_AXIS = 40  # each index of an axis up to this long is among them
DIRECTIONS = 2
VISIBLE = 1e-2  # an error of this part of the gradient must not pass unseen


def gradcheck(fn: Callable[..., Any], *inputs: Any) -> GradientReport:
    """Check the gradients of `fn` against finite differences; returns a report, see `GradientReport`.

    fn: takes the inputs; returns a tensor of any shape, or a tuple or list of tensors and Nones; all in float64.
    inputs: checked are leaf tensors (float64) that require a gradient, and float64 arrays, which become such tensors.
    Anything else is passed on as it is; of a float32 array the report says so (`report.unchecked`). If all of them are
    float32 instead, gradients are checked in float64, at the same numbers, and what float32 gives is compared with that
    (`check_precision`; `report.precision`). Where fn raises an error for float64, differences are those of float32,
    whose bounds are wider (`report.single`).

    fn may be a module, too, in any dtype. Then a copy of it in float64 is checked, in the same mode, with inputs in
    float64: the gradients of the inputs, and those of all parameters that require one, which messages name.

    With y = fn(x), random cotangents v and a direction u, backward's <J'v, u> is compared with difference quotients of
    t -> <v, fn(x + t*u)>: for single entries, all of a small input, else corners, borders, each index of each short
    axis; and for random directions, which have a part of every entry. An entry that a direction finds wrong is searched
    for. The outputs are compared one by one, each with the gradient that backward gives for it alone, and all together.

    There is no tolerance: steps, and how far a quotient can be off by truncation and by rounding, are derived from the
    values at hand (finite_differences.py), and so is what backward itself can be off by. Where these bounds are large,
    because fn's values have a lot of noise, say, the report's `sharpness` says what error could have gone unseen.

    Cotangents and directions are random, with magnitudes from 0.5 to 1.5. Uniform ones would hide faults: batch norm
    cancels a uniform cotangent, and a sum a permutation of its gradient. Give inputs that are random, too: a uniform
    map looks the same to every tap of a depthwise convolution, so it hides what its borders do.

    The verdict is one of

    - PASS: everything checked is within its bound, and bounds are below 1 % of the gradient.
    - KINK: the same, but some entries, or directions, could not be judged, since one-sided derivatives differ there
      (PReLU at 0, a tie of max-pooling), by more than rounding explains and however small the step. Any number between
      the two is accepted, as another choice of subgradient, or between derivatives at points close by, where ties are
      broken; what lies outside is no choice, and fails.
    - INCONCLUSIVE: nothing was found wrong, but an error of 1 % could have gone unseen somewhere. It is also warned of.

    Raises GradientError (an AssertionError, with the report) that names the worst entry if a gradient is out of its
    bound (a missing one counts as zero), if fn or a backward changes an input or a cotangent in place, if two runs, or
    two backward passes, differ, or if numbers are not finite. During the second pass, what `ctx.array` gives to write a
    gradient to is full of NaN. Raises TypeError or ValueError for inputs and outputs that cannot be checked. The
    `.grad` of the inputs is left as it was.

    >>> gradcheck(lambda x, w: octsod.functional.conv2d(x, w, padding=1), np.ones((1, 2, 5, 4)), np.ones((3, 2, 3, 3)))
    """
    if isinstance(fn, Module):
        return _differences_of_module(fn, inputs)
    floats = [x for x in inputs if _is_checked(x, np.float64) or _is_checked(x, np.float32)]
    if not floats or any(x.dtype == np.float64 for x in floats):
        unchecked = tuple(i for i, x in enumerate(inputs) if isinstance(x, np.ndarray) and x.dtype == np.float32)
        return dataclasses.replace(_differences(fn, inputs, np.float64), unchecked=unchecked)
    doubles = [_in_double(x) for x in inputs]
    refusal = _refusal(fn, doubles)
    if refusal is not None:
        return dataclasses.replace(_differences(fn, inputs, np.float32), single=refusal)
    precision = check_precision(fn, *inputs)
    return dataclasses.replace(_differences(fn, doubles, np.float64), precision=precision)


def _refusal(fn, inputs):
    """What fn raises for these inputs, in words; None if it takes them."""
    try:
        with no_grad():
            Passes("gradcheck", fn, inputs, {}, np.float64).outputs()
    except Exception as error:
        return f"{type(error).__name__}: {' '.join(str(error).split())}"
    return None


def _differences_of_module(module, inputs):
    """The report of comparing the gradients of a module's inputs and parameters, in float64."""
    double = _module_in_double(module)

    @functools.wraps(type(module), updated=())  # messages have the module's name
    def fn(*arguments):
        return double(*arguments[: len(inputs)])

    return _differences(fn, [_in_double(x) for x in inputs], np.float64, dict(double.named_parameters()))


def _module_in_double(module):
    """A copy of a module whose parameters, and buffers of float32, are float64."""
    double = copy.deepcopy(module)

    def converted(array):
        device = device_of(array)
        return device.put(device.get(array).astype(np.float64))

    for parameter in double.parameters():
        parameter._set(converted(parameter.data), parameter.requires_grad)
    for part in double.modules():
        for name in part.buffers:
            if getattr(part, name).dtype == np.float32:
                vars(part)[name] = converted(getattr(part, name))
    return double


def _differences(fn, given, dtype, parameters=None):
    """The report of comparing gradients with finite differences in this dtype. parameters: by name, tensors whose
    gradients are checked as well."""
    parameters = parameters or {}
    inputs = tuple(Tensor(x.copy(), True) if isinstance(x, np.ndarray) and x.dtype == dtype else x for x in given)
    inputs += tuple(parameters.values())
    checked = _checked(inputs, dtype)
    before = [(x, x.data, x.grad) for x in inputs if isinstance(x, Tensor)]
    try:
        return _Check(fn, inputs, checked, given, dtype, tuple(parameters)).report()
    finally:
        for x, data, grad in before:  # the very arrays that were there
            x._data, x._grad = data, grad


def _is_checked(x, dtype):
    return isinstance(x, (np.ndarray, Tensor)) and x.dtype == dtype and (isinstance(x, np.ndarray) or x.requires_grad)


def _in_double(x):
    if isinstance(x, Tensor) and x.dtype == np.float32:
        return Tensor(x.numpy().astype(np.float64), x.requires_grad)
    return x.astype(np.float64) if isinstance(x, np.ndarray) and x.dtype == np.float32 else x


def _checked(inputs, dtype):
    """The inputs to check, by number."""
    if not is_grad_enabled():
        raise RuntimeError("gradcheck: called within `no_grad`, where nothing has a gradient.")
    checked = {i: x for i, x in enumerate(inputs) if isinstance(x, Tensor) and x.requires_grad}
    if not checked:
        raise ValueError("gradcheck: no input requires a gradient; expected a tensor that does, or a float64 array.")
    for number, x in checked.items():
        if x.dtype != dtype:
            raise TypeError(f"gradcheck: input {number} is {x.dtype}; expected float64, for accurate differences.")
        if x.node is not None:
            raise ValueError(f"gradcheck: input {number} is the result of `{x.node.name}`; expected a leaf tensor.")
    return checked


class _Check:
    """One call of `gradcheck`. gradients, own: per input, an array for each output, whose cotangent is the only one."""

    def __init__(self, fn, inputs, checked, given, dtype, parameters):
        self.passes, self.checked = Passes("gradcheck", fn, inputs, checked, dtype, parameters), checked
        self.given, self.dtype, self.precision = given, dtype, PRECISIONS[np.dtype(dtype).name]
        self.generator = np.random.default_rng((SEED, 1))
        self.kinks, self.inconclusive, self.orders, self.worst = [], [], {}, None
        self.entries = self.directions = self.failed = 0
        self.error = self.of_bound = self.sharpness = 0.0

    def report(self):
        values, cotangents, gradients = self.passes.first()
        self.shapes = [y.shape for y in values]
        for y, again in zip(values, self.run(), strict=True):
            if not np.array_equal(y, again):
                raise GradientError("gradcheck: `fn` is not deterministic: two runs on the same inputs differ.")
        self.starts = {number: x.numpy().astype(np.float64) for number, x in self.checked.items()}
        self.sizes = self._sizes()
        self.nearby = {number: self._nearby(number) for number in self.checked}
        again = self.passes.gradients(cotangents, dirty=True)
        blur = self._blur(gradients, values, cotangents)
        self._require_same(gradients, again, blur, "in a second pass on the same inputs")
        if len(values) > 1:
            parts = [[v if j == k else None for j, v in enumerate(cotangents)] for k in range(len(values))]
            found = [self.passes.gradients(part) for part in parts]
            total = {number: sum(g[number] for g in found) for number in gradients}
            self._require_same(gradients, total, blur, "as the sum of those for each output alone")
        else:
            parts, found = [cotangents], [gradients]
        owns = [self._own_rounding(g, values, part) for g, part in zip(found, parts, strict=True)]
        self.gradients = {number: [g[number] for g in found] for number in self.checked}
        self.own = {number: [own[number] for own in owns] for number in self.checked}
        ends = [0, *itertools.accumulate(y.size for y in values)]
        slices = [slice(*pair) for pair in itertools.pairwise(ends)]
        seen = self._noise(flat(values), slices)
        self.weighted = Weighted(flat(values), flat(cotangents), seen, slices, self.precision)
        for number in self.checked:
            failures = self._check_input(number)
            self.set(number, self.starts[number])
            if failures:
                self._fail(failures)
        verdict = "INCONCLUSIVE" if self.inconclusive else "KINK" if self.kinks else "PASS"
        report = self._summary(verdict)
        if self.inconclusive:
            warnings.warn(f"gradcheck: {report}.", InconclusiveWarning, stacklevel=3)
        return report

    def run(self):
        values = self.passes.forward()
        if [y.shape for y in values] != self.shapes:
            raise GradientError("gradcheck: `fn` returns outputs of other shapes for other values of its inputs.")
        return values

    def set(self, number, numbers):
        """Give an input these numbers."""
        self.checked[number].data = numbers.astype(self.dtype)

    def _blur(self, gradients, values, cotangents):
        """By input, what gradients may differ by from one pass to the next: far more than rounding, far less than what
        has to be found."""
        pairs = zip(values, cotangents, strict=True)
        natural = math.hypot(*(norm(y * v) for y, v in pairs if v is not None))
        repeats = self.precision.repeats
        return {n: repeats * (np.abs(g).max(initial=0.0) + natural / self.sizes[n]) for n, g in gradients.items()}

    def _own_rounding(self, gradients, values, cotangents):
        """How far gradients are off by backward's own rounding: as far as they move with the last bit of cotangents."""
        unit = self.precision.unit
        ulps = [None if v is None else 2 * unit * signs(self.generator, v.shape) for v in cotangents]
        pairs = zip(cotangents, ulps, strict=True)
        moved = self.passes.gradients([v if v is None else (v * (1 + e)).astype(self.dtype) for v, e in pairs])
        blur = self._blur(gradients, values, cotangents)
        self._require_same(gradients, moved, blur, "after cotangents have changed in the last place")
        return {number: 4 * (np.abs(moved[number] - g) + unit * np.abs(g)) for number, g in gradients.items()}

    def _require_same(self, gradients, others, bounds, where):
        for number, g in gradients.items():
            apart = np.abs(others[number] - g)
            if g.size and apart.max() > bounds[number]:
                index = tuple(int(i) for i in np.unravel_index(apart.argmax(), g.shape))
                raise GradientError(
                    f"gradcheck: {self.passes.names[number]} at {index}: backward gives {g[index]:.10g}, and "
                    f"{others[number][index]:.10g} {where}."
                )

    def _sizes(self):
        """How far each input's entries may be moved: as they differ from one another or, if they don't, their size."""
        sizes = {n: float(np.std(x)) or float(np.abs(x).max()) if x.size else 1.0 for n, x in self.starts.items()}
        others = max(sizes.values()) or 1.0
        return {n: size or others for n, size in sizes.items()}

    def _nearby(self, number):
        """How far each entry may be moved so that nothing is missed which happens on the way to 0."""
        start, size = self.starts[number], self.sizes[number]
        magnitudes = np.abs(start)
        smallest = magnitudes[start != 0].min(initial=np.inf)
        return np.maximum(np.minimum(np.where(start == 0, smallest, magnitudes), size), size * 2.0**-30)

    def _noise(self, values, slices):
        """The noise of the outputs, seen by moving all inputs at once."""
        ways = {n: random_numbers(self.generator, near.shape) * near for n, near in self.nearby.items()}

        def y(t):
            for number, start in self.starts.items():
                self.set(number, start + t * ways[number])
            return flat(self.run())

        seen = noise(y, values, slices, self.precision)
        for number, start in self.starts.items():
            self.set(number, start)
        return seen

    def _check_input(self, number):
        """Compare entries and directions; returns the Places where backward is wrong, with how wrong it is."""
        one, failures, orders = InputCheck(self, number), [], []

        def note(found, place):
            self.entries += place.index is not None
            self.directions += place.index is None
            if found.order is not None:
                orders.append(found.order)
            if found.verdict == "KINK":
                self.kinks.append((number, place.index))
                return
            if found.verdict == "FAIL":
                failures.append((found.relative_error, place))
            elif found.verdict == "INCONCLUSIVE" or found.sharpness > VISIBLE:
                self.inconclusive.append((number, place.index))
            self.error = max(self.error, found.relative_error)
            self.sharpness = max(self.sharpness, found.sharpness, found.relative_error)
            of_bound = relative(place.error, place.bound)
            if self.worst is None or of_bound > self.of_bound:
                self.worst, self.of_bound = place, of_bound

        entries = _entries(one.start.shape, self.generator)
        for index in entries:
            note(*one.entry(index))
        kinks = [index for n, index in self.kinks if n == number]
        for k in range(DIRECTIONS if not failures and len(entries) < one.start.size else 0):
            u = random_numbers(self.generator, one.start.shape) * one.nearby
            for index in kinks:
                u[index] = 0
            found, place = one.direction(u, k)
            note(found, place)
            # Where most kinks are: at numbers at which there was one, and at ties.
            for apart in (~np.isin(one.start, [one.start[index] for index in kinks]), _unique(one.start)):
                if found.verdict == "KINK" and apart.any() and not apart.all():
                    u *= apart
                    found, place = one.direction(u, k)
                    note(found, place)
            if found.verdict == "FAIL":
                culprit = one.search(u)
                failures[:] = failures if culprit is None else [culprit]
                break
        self.orders[number] = statistics.median(orders) if orders else None
        return failures

    def _summary(self, verdict):
        return GradientReport(
            verdict, self.entries, self.directions, self.error, self.of_bound, self.sharpness, tuple(self.kinks),
            tuple(self.inconclusive), self.orders, self.passes.calls, self.worst, self.failed,
            names=self.passes.names,
        )  # fmt: skip

    def _fail(self, failures):
        _, place = max(failures, key=lambda pair: pair[0])
        self.failed, self.worst = len(failures), place
        raise GradientError(
            f"gradcheck: {place}. {self.failed} of the {self.entries + self.directions} comparisons so far "
            f"{'is' if self.failed == 1 else 'are'} wrong.\n"
            f"{reproduction('octsod.gradcheck', self.passes.fn, self.given)}",
            self._summary("FAIL"),
        )


def _unique(array):
    """1 where a number occurs once, else 0."""
    _, inverse, counts = np.unique(array, return_inverse=True, return_counts=True)
    return (counts[inverse] == 1).reshape(array.shape)


def _entries(shape, generator):
    """Indices to check: all, or all corners (up to 16), one on each border, and each index of each axis that is not
    long, at random in the others."""
    if math.prod(shape) <= ALL_ENTRIES:
        return list(np.ndindex(shape))
    chosen = dict.fromkeys(itertools.islice(itertools.product(*({0: 0, n - 1: 0} for n in shape)), 16))
    for axis, n in enumerate(shape):
        for end in (0, n - 1):
            index = [int(generator.integers(m)) for m in shape]
            index[axis] = end
            chosen[tuple(index)] = None
    count = max(SPREAD_ENTRIES, *(n for n in shape if n <= LONGEST_AXIS), 0)
    spread = [np.concatenate([generator.permutation(n) for _ in range(-(-count // n))])[:count] for n in shape]
    chosen.update(dict.fromkeys(tuple(int(i) for i in index) for index in zip(*spread, strict=True)))
    return list(chosen)
