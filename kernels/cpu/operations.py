"""Programs as arrays: one row per step, for the one interpreter (interpreter.py) of training and of inference."""

from .regions import NOWHERE

FIELDS = 22
(
    # in both
    FILL,
    TRANSFER,
    MAX_POOL,
    UPSAMPLE_ADD,
    # in training only
    ACTIVATE,
    ACTIVATE_AVERAGE,
    DIFFERENTIATE,
    WRITE,
    WRITE_GRADIENT,
    WRITE_GRADIENT_OF_AVERAGE,
    GRADIENT_SUMS,
    MAX_POOL_BACKWARD,
    UPSAMPLE_BACKWARD,
    MULTIPLY,
    CORRELATE,
    # in inference only
    PRODUCT,
    DEPTHWISE,
    AVERAGE,
    BARRIER,
) = range(19)


def encoded(operation, channels, rows, cols, x=NOWHERE, y=NOWHERE, z=NOWHERE, coef=0, sums=0, a=0, b=0, c=0, d=0):
    """The row of a step, `FIELDS` integers. x, y and z are regions, coef and sums are numbers of arrays. interpreter.py
    shows what each operation reads and writes, and what a, b, c and d mean to it."""
    return operation, channels, rows, cols, *x, *y, *z, coef, sums, a, b, c, d
