"""`octsod check`: the gradients, kernels and manners of an op, on drawn cases."""

import importlib
import importlib.util
import inspect
import json
import os
import pathlib
import sys

import click

from ..checks import shortened
from . import Failure
from .progress import Progress


@click.command()
@click.argument("target", metavar="MODULE:OP")
@click.option("--examples", type=click.IntRange(1, 10_000), default=20, show_default=True, metavar="N",
              help="How many cases are drawn.")  # fmt: skip
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, metavar="S", help="Which ones.")
@click.option("--checks", metavar="A,B", help="Run these checks alone: any of "
              "guards, unmodified, written, runs, races, deterministic, threads, reference, float32, cuda, parts, "
              "gradients, convergence, adjoint, accumulation, aliasing, graphs, nonfinite, overflow, layouts, memory.  "
              "[default: all that apply]")  # fmt: skip
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default=None,
              help="cuda: also compare with the op's CUDA kernels, on a GPU or the simulator; cpu: never do.  "
                   "[default: for ops that are not octsod's own]")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")
@click.option("--quiet", "-q", is_flag=True, help="No progress on standard error.")
@click.pass_context
def check(ctx, target, examples, seed, checks, device, as_json, quiet):
    """Check an op: its gradients, its kernels, and what it does to memory.

    MODULE:OP is a class derived from octsod.autograd.Function, or a function of tensors: octsod.functional:conv2d,
    my_package.my_ops:Swish, path/to/ops.py:Swish. Modules are looked for in the current folder, too. An op of your own
    says by its attribute `cases` what it is checked on, and by `reference` with what it is compared; without the first,
    arrays of one shape are tried. A module or file alone is answered with the ops in it.

    Of several checks that fail, the first may be why the others do: they go from cause to consequence.

    Exits with 0 if no check fails, 1 if one does, 2 if the op cannot be found or has no cases.
    """
    from ..testing import operator_check

    op, name = find(target)
    try:
        with Progress(examples, "case", quiet or as_json) as progress:
            report = operator_check.collect(
                op, examples=examples, seed=seed, name=name,
                checks=[check.strip() for check in checks.split(",")] if checks else None,
                cuda=None if device is None else device == "cuda", told=progress.update,
            )  # fmt: skip
    except (ValueError, TypeError, ModuleNotFoundError) as error:
        raise Failure(str(error).removeprefix("check_op: ")) from error
    click.echo(json.dumps(report.to_json()) if as_json else str(report))
    if report.failures:
        ctx.exit(1)


def find(target):
    """(op, its name) of MODULE:OP. Failure, with the ops that there are, if it cannot be found."""
    where, colon, name = target.rpartition(":")
    if not colon:
        where, name = target, ""
    if not where:
        raise click.UsageError(
            f"MODULE:OP is {shortened(repr(target))}; expected a module and an op in it, such as "
            "octsod.functional:conv2d or path/to/ops.py:Swish."
        )
    module = _load_file(pathlib.Path(where)) if where.endswith(".py") else _load_module(where)
    if not name:
        raise Failure(f"{where}: name an op in it, such as {where}:OP. {_offered(module)}")
    found = module
    for part in name.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            near = _near(name, [known for known in _public(module) if callable(getattr(module, known, None))])
            raise Failure(f"{where} has no {name!r}.{near} {_offered(module)}") from None
    if not callable(found):
        raise Failure(f"{where}:{name} is a {type(found).__name__}; expected a class of `Function` or a function.")
    return found, name


def _offered(module):
    """A sentence with the ops of a module: classes of `Function` or, if it has none, its own functions."""
    from ..autograd import Function
    from ..autograd.graph import Op

    values = {name: getattr(module, name, None) for name in _public(module)}
    ops = [name for name, v in values.items() if isinstance(v, type) and issubclass(v, Function)]
    ops = [name for name in ops if values[name] not in (Function, Op)]
    ops = ops or [name for name, v in values.items() if inspect.isfunction(v) and v.__module__ == module.__name__]
    return f"Its ops: {', '.join(ops)}." if ops else "It has no ops."


def _public(module):
    return getattr(module, "__all__", None) or [name for name in vars(module) if not name.startswith("_")]


def _near(name, known):
    import difflib

    folded = {other.lower(): other for other in known}
    near = difflib.get_close_matches(name.lower(), folded, 1, 0.5)
    return f" Did you mean {folded[near[0]]!r}?" if near else ""


def _load_module(name):
    if "" not in sys.path and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    parts = name.split(".")
    if not all(part.isidentifier() for part in parts):
        raise Failure(f"{shortened(repr(name))} is no name of a module; a file's name ends in .py.")
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not (name == error.name or name.startswith(f"{error.name}.")):
            raise Failure(f"{name}: cannot be imported: there is no module {error.name!r}.") from error
        raise Failure(f"There is no module {name!r}.{_near(error.name, _modules_beside(error.name))}") from error
    except Exception as error:
        raise _broken(name, error) from error


def _modules_beside(name):
    """The names of modules that may be meant: those in the same package, or in the current folder."""
    import pkgutil

    package = name.rpartition(".")[0]
    folders = sys.modules[package].__path__ if package in sys.modules else [os.getcwd()]
    prefix = f"{package}." if package else ""
    return [prefix + module.name for module in pkgutil.iter_modules(folders)] + ([] if package else ["octsod"])


def _load_file(path):
    if not path.is_file():
        beside = [other.name for other in path.parent.glob("*.py")] if path.parent.is_dir() else []
        raise Failure(f"{path}: no such file.{_near(path.name, beside)}")
    for module in list(sys.modules.values()):
        file = getattr(module, "__file__", None)
        if file and os.path.abspath(file) == os.path.abspath(path):
            return module  # its namespaces of kernels exist already
    sys.path.insert(0, str(path.parent.resolve()))  # for the modules beside it
    name = path.stem if path.stem not in sys.modules else f"{path.stem} of {path}"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise _broken(path, error) from error
    return module


def _broken(name, error):
    return Failure(f"{name}: cannot be imported: {type(error).__name__}: {' '.join(str(error).split())}")
