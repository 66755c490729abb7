"""What a kernel's machine code depends on, as one hash: its own code and, transitively, whatever it uses.

Functions count as they were loaded: bytecode, constants and options, not text. What runs while a kernel is compiled
(intrinsics, overloads, types) can read anything in its module, so there all of the module's source counts, and that of
the modules which it imports. Of NumPy, Numba and the standard library, the versions count, see cache_folder.py.
"""

import dis
import functools
import hashlib
import pathlib
import sys
import types

import numpy as np
from numba.core import types as numba_types
from numba.core.dispatcher import Dispatcher
from numba.core.extending import _Intrinsic
from numba.core.sigutils import normalize_signature

PLAIN = (bool, int, float, complex, str, bytes, type(None), type(Ellipsis), np.dtype, np.generic)
COMPILER = f"{__package__}.compile"  # what it does to a kernel are the kernel's options, which count
VERSIONED = {"numpy", "numba", "llvmlite", *sys.stdlib_module_names}


class UnknownError(Exception):
    """It cannot be said what this depends on."""


def _digest(*parts) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def _read_sources():
    """The digest of each file of this folder. Read at once, since a file that is edited after its import, in a process
    that runs for hours, would otherwise count as what was loaded."""
    here = pathlib.Path(__file__).parent
    return {str(file): hashlib.sha256(file.read_bytes()).hexdigest() for file in here.glob("*.py")}


_sources = _read_sources()


def fingerprint(kernel: Dispatcher) -> str:
    """The hash of all that decides what `kernel` computes, but for the types of its arguments.

    Raises UnknownError, for a kernel that uses what has no known contents, such as a list.
    """
    return _kernel(kernel, ())


def fingerprint_of_types(signature) -> str:
    """The hash of a signature, or of a tuple of types, as Numba hands them to a cache. Raises UnknownError."""
    arguments, result = normalize_signature(signature)
    return _digest([_type(kind) for kind in arguments], result and _type(result))


# Each of these is kept by object, which its key keeps alive.
_kernels: dict[Dispatcher, str] = {}


def _kernel(kernel, users):
    """users: the kernels through which we came here."""
    if kernel not in _kernels:
        if kernel in users:
            raise UnknownError(f"{kernel.py_func.__qualname__} calls itself")
        function, options = kernel.py_func, sorted(kernel.targetoptions.items())
        users = (*users, kernel)
        own, used = _function(function, users), _globals(function, users)
        _kernels[kernel] = _digest(function.__module__, repr(options), own, used)
    return _kernels[kernel]


def _globals(function, users):
    """What the names in a function's code stand for."""
    scope, codes = function.__globals__, [*_codes(function.__code__)]
    names = sorted({name for code in codes for name in code.co_names})
    used = [name for name in names if name in scope]
    if any(isinstance(scope[name], types.FunctionType) for name in used):
        # Kernels do not call such functions, except for those that are overloaded. So it may be the name of an
        # attribute, as in `math.log` where a function here is called `log`. It takes long to find out.
        loads = [i for code in codes for i in dis.get_instructions(code) if i.opcode in dis.hasname]
        used = sorted({i.argval for i in loads if "ATTR" not in i.opname and "METHOD" not in i.opname} & {*used})
    return [(name, _value(scope[name], names, users)) for name in used]


def _codes(code):
    """A function's code, and that of the functions inside it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _codes(constant)


def _function(function, users):
    """A function's own code, its defaults, and the variables of functions around it."""
    cells = [cell.cell_contents for cell in function.__closure__ or ()]
    around = [_value(value, (), users) for value in (function.__defaults__, function.__kwdefaults__, *cells)]
    return _digest(function.__qualname__, _code(function.__code__), around)


def _code(code):
    constants = [_code(c) if isinstance(c, types.CodeType) else _constant(c) for c in code.co_consts]
    counts = code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags
    names = code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars
    return code.co_name, code.co_code, getattr(code, "co_exceptiontable", b""), counts, names, constants


def _constant(value):
    """Something whose `repr` says everything, for containers in an order that does not change."""
    if isinstance(value, PLAIN):
        return f"{type(value).__name__} {value!r}"
    if isinstance(value, tuple):
        return [type(value).__qualname__, *map(_constant, value)]
    if isinstance(value, frozenset):
        return ["frozenset", *sorted(map(repr, map(_constant, value)))]
    if isinstance(value, np.ndarray) and not value.dtype.hasobject:
        return [str(value.dtype), value.shape, hashlib.sha256(value.tobytes()).hexdigest()]
    raise UnknownError(f"a {type(value).__qualname__}")


def _value(value, names, users):
    """Anything that a kernel or a function around it can name. names: those of the attributes that it may read."""
    if isinstance(value, Dispatcher):
        return _kernel(value, users)
    if isinstance(value, numba_types.Type):
        return _type(value)
    if isinstance(value, types.ModuleType):
        if _is_versioned(value.__name__):
            return value.__name__
        return [(name, _value(vars(value)[name], names, users)) for name in names if name in vars(value)]
    if isinstance(value, type) and issubclass(value, tuple) and hasattr(value, "_fields"):
        return _named_tuple(value)
    if isinstance(value, tuple):
        return [type(value).__qualname__, *(_value(item, names, users) for item in value)]
    if isinstance(value, _Intrinsic):
        return _module(value._defn.__module__), _function(value._defn, users)
    if isinstance(value, np.ufunc):
        return repr(value)
    if isinstance(value, type | types.FunctionType | types.BuiltinFunctionType):
        module = value.__module__ or "builtins"
        if _is_versioned(module):
            return module, value.__qualname__
        return _module(module), _function(value, users) if isinstance(value, types.FunctionType) else value.__qualname__
    return _constant(value)


def _is_versioned(module):
    return module.partition(".")[0] in VERSIONED


def _named_tuple(kind):
    return kind.__module__, kind.__qualname__, kind._fields, _constant(tuple(kind._field_defaults.items()))


def _type(kind):
    """A type, by its name and by what the name leaves out: where its class comes from, and the fields of tuples."""
    text = str(kind)
    if " at 0x" in text:  # a function; its type is another one in each process
        raise UnknownError(text)
    parts = [text, type(kind).__qualname__]
    if not _is_versioned(type(kind).__module__):
        parts.append(_module(type(kind).__module__))
    if isinstance(kind, numba_types.BaseNamedTuple):
        parts.append(_named_tuple(kind.instance_class))
    inner = [getattr(kind, name, None) for name in ("dtype", "type")]
    for part in (*(kind if isinstance(kind, numba_types.BaseTuple) else ()), *inner):
        if isinstance(part, numba_types.Type) and part is not kind:
            parts.append(_type(part))
    return parts


@functools.cache
def _module(name) -> str:
    """The sources of a module and of all that it imports at its top, and its CONSTANTS: they may depend on the machine,
    such as how wide its vectors are."""
    found, todo = {}, [name]
    while todo:
        name = todo.pop()
        if name not in found and name != COMPILER and not _is_versioned(name):
            module = sys.modules.get(name)
            if module is None:
                raise UnknownError(name)
            values = {key: value for key, value in vars(module).items() if not key.startswith("__")}
            constants = sorted((k, _constant(v)) for k, v in values.items() if k.isupper() and isinstance(v, PLAIN))
            found[name] = _source(module), constants
            todo += [origin for origin in map(_origin, values.values()) if isinstance(origin, str)]
    return _digest(sorted(found.items()))


def _origin(value):
    """The name of the module that a value is, or that it or its class comes from."""
    return value.__name__ if isinstance(value, types.ModuleType) else getattr(value, "__module__", None)


def _source(module):
    file = getattr(module, "__file__", None)
    if file not in _sources:
        try:
            _sources[file] = hashlib.sha256(module.__loader__.get_data(file)).hexdigest()
        except Exception as error:  # loaders of any kind, such as one for archives
            raise UnknownError(module.__name__) from error
    return _sources[file]
