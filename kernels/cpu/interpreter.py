"""The interpreter of programs: executes one step after the other on arrays whose addresses it is given.

Training and inference share it, the steps that both have, and the form of a program. What only one of them needs is
compiled only for that one: in the other's variant its group of arguments is None, and Numba leaves out the code behind
`if group is not None`. So both are as cheap to compile as with interpreters of their own.
"""

from typing import Any, NamedTuple

from . import inference_steps, scales, steps
from .barrier import wait
from .compile import spliced
from .hooks import after_step
from .operations import (
    ACTIVATE,
    ACTIVATE_AVERAGE,
    AVERAGE,
    DEPTHWISE,
    DIFFERENTIATE,
    FILL,
    GRADIENT_SUMS,
    MAX_POOL,
    MAX_POOL_BACKWARD,
    MULTIPLY,
    PRODUCT,
    TRANSFER,
    UPSAMPLE_ADD,
    UPSAMPLE_BACKWARD,
    WRITE,
    WRITE_GRADIENT,
    WRITE_GRADIENT_OF_AVERAGE,
)
from .products import correlate, multiply
from .regions import UNFINISHED, Extent, Part, Region, Table, Weights
from .scales import Coarse
from .simd import array_at

_product_by_rows, _depthwise, _average = (
    inference_steps.product_by_rows, inference_steps.depthwise, inference_steps.average,
)  # fmt: skip
_activate, _activate_average, _differentiate = steps.activate, steps.activate_average, steps.differentiate
_fill, _transfer, _write, _gradient_sums_of = steps.fill, steps.transfer, steps.write, steps.gradient_sums_of
_write_gradient, _write_gradient_of_average = steps.write_gradient, steps.write_gradient_of_average
_max_pool, _max_pool_backward = scales.max_pool, scales.max_pool_backward
_upsample_add, _upsample_backward = scales.upsample_add, scales.upsample_backward


class Arrays(NamedTuple):
    """What steps work on.

    places: the address of each numbered array. parameters: the packed weights. table: the offsets of products. like: an
    array of the maps' dtype.
    """

    places: Any
    parameters: Any
    table: Any
    like: Any


class Training(NamedTuple):
    """What only the steps of training need. like64: an array of the dtype of sums. spare: see `multiply`. past: see
    `write`."""

    like64: Any
    spare: int
    past: bool


class Meeting(NamedTuple):
    """Where the `threads` of an inference meet. counter: see `wait`; rounds (1,): how often this thread has waited."""

    counter: Any
    threads: int
    rounds: Any


class _Step(NamedTuple):
    """A row of a program, see `encoded`; here x, y and z hold the arrays themselves."""

    operation: int
    extent: Extent
    x: Region
    y: Region
    z: Region
    coef: int
    sums: int
    a: int
    b: int
    c: int
    d: int


@spliced
def _region(program, k, field, arrays):
    array = array_at(arrays.like, arrays.places[program[k, field]])
    return Region(array, program[k, field + 1], program[k, field + 2], program[k, field + 3])


@spliced
def _decoded(program, k, arrays):
    """Step k."""
    return _Step(
        program[k, 0], Extent(program[k, 1], program[k, 2], program[k, 3]), _region(program, k, 4, arrays),
        _region(program, k, 8, arrays), _region(program, k, 12, arrays), program[k, 16], program[k, 17],
        program[k, 18], program[k, 19], program[k, 20], program[k, 21],
    )  # fmt: skip


@spliced
def take(program, first, last, arrays, training, meeting, clock):
    """Execute steps first..last of `program` (steps, FIELDS) on `arrays`, with a `Training` or a `Meeting`.

    clock: None, or what a profiler's `after_step` works on.
    """
    for k in range(first, last):
        step = _decoded(program, k, arrays)
        operation, extent, x, y = step.operation, step.extent, step.x, step.y
        if operation == FILL:
            _fill(y, extent, arrays.like.dtype.type(step.a))
        elif operation == TRANSFER:
            _transfer(x, y, step.a, extent, step.b)
        elif operation == MAX_POOL:
            _max_pool(x, step.a, y, extent)
        elif operation == UPSAMPLE_ADD:
            coarse = Coarse(step.b, extent.cols, step.a)
            _upsample_add(x, coarse, y, step.c, extent.channels, extent.rows, arrays.parameters, step.d)
        elif training is not None:
            _train(step, arrays, training)
        elif meeting is not None and not _infer(step, arrays, meeting):
            break
        after_step(clock, k)


@spliced
def _train(step, arrays, training):
    """Execute a step that only training has."""
    operation, extent, x, y, z = step.operation, step.extent, step.x, step.y, step.z
    channels, cols = extent.channels, extent.cols
    a, b, c, d = step.a, step.b, step.c, step.d
    coef = array_at(arrays.like, arrays.places[step.coef])
    sums = array_at(training.like64, arrays.places[step.sums])
    if operation == ACTIVATE:
        _activate(x, a, coef, y, extent, sums)
    elif operation == ACTIVATE_AVERAGE:
        _activate_average(x, coef, y, extent, sums)
    elif operation == DIFFERENTIATE:
        _differentiate(x, z, coef, y, extent, Part(c, d))
    elif operation == WRITE:
        _write(x, y, extent, Part(c, d), sums, a, b, training.past)
    elif operation == WRITE_GRADIENT:
        _write_gradient(x, z, coef, y, extent, Part(c, d), sums, b, a)
    elif operation == WRITE_GRADIENT_OF_AVERAGE:
        _write_gradient_of_average(x, z, coef, y, extent, Part(c, d), sums, b, a)
    elif operation == GRADIENT_SUMS:
        _gradient_sums_of(x, z, coef, extent, sums)
    elif operation == MAX_POOL_BACKWARD:
        _max_pool_backward(x, a, z, y, extent)
    elif operation == UPSAMPLE_BACKWARD:
        _upsample_backward(x, Coarse(b, cols, a), y, c, channels, extent.rows)
    elif operation == MULTIPLY:
        weights = Weights(arrays.parameters, a, b, UNFINISHED)
        multiply(y, channels, weights, x, Table(arrays.table, c, d), cols, training.spare)
    else:  # CORRELATE
        correlate(y, channels, z, x, Table(arrays.table, c, d), cols, a)


@spliced
def _infer(step, arrays, meeting):
    """Execute a step that only inference has. Returns False if a thread is missing, so that the others have to end."""
    operation, extent, x, y, a, b = step.operation, step.extent, step.x, step.y, step.a, step.b
    if operation == PRODUCT:
        weights = Weights(arrays.parameters, a, extent.channels, b)
        _product_by_rows(y, weights, x, Table(arrays.table, step.c, step.d), extent)
    elif operation == DEPTHWISE:
        _depthwise(x, y, Weights(arrays.parameters, a, extent.channels, b), extent)
    elif operation == AVERAGE:
        _average(x, y, extent)
    elif meeting.threads > 1:  # BARRIER
        meeting.rounds[0] += 1
        return wait(meeting.counter, meeting.threads * meeting.rounds[0])
    return True
