"""Arrays that a library may meet: those that are refused, those of odd layouts; tensors to try them on."""

import numpy as np

from octsod import Tensor

SHAPE = (4, 4)


def normal(*shape, dtype=np.float32):
    return np.random.default_rng(0).standard_normal(shape).astype(dtype)


def frozen_view(array):
    view = array.copy()
    view.flags.writeable = False
    return view


# What may not come in, and the word that the error says it with.
REFUSED = {
    "float16": lambda a: a.astype(np.float16),
    "longdouble": lambda a: a.astype(np.longdouble),
    "foreign byte order": lambda a: a.astype(a.dtype.newbyteorder()),
    "complex": lambda a: a.astype(np.complex64),
    "object": lambda a: a.astype(object),
    "<U": lambda a: a.astype(str),
    "masked": lambda a: np.ma.masked_array(a, a > 0),
}
# What comes in as a copy: the numbers are those that NumPy shows.
ODD = {
    "Fortran order": np.asfortranarray,
    "read-only": frozen_view,
    "broadcast": lambda a: np.broadcast_to(a[:1], a.shape),
    "reversed": lambda a: a[::-1],
    "strided": lambda a: np.repeat(a, 2, -1)[..., ::2],
    "misaligned": lambda a: np.frombuffer(b"x" + a.tobytes(), a.dtype, offset=1).reshape(a.shape),
    "matrix": lambda a: a.view(np.matrix),
}


def leaf(shape=SHAPE):
    return Tensor(np.ones(shape, np.float32), requires_grad=True)
