"""`octsod check` and `parametrize_ops`."""

import json
import subprocess
import sys
import textwrap

import pytest
from click.testing import CliRunner

import octsod.testing
from octsod.cli import main

OPS = '''
import numpy as np
from octsod.autograd import Function
from octsod.testing import Case, Input


class Square(Function):
    cases = [Case((Input((2, 3)),)), Case((Input((1,)),), seed=5)]

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx, grad):
        return 2 * ctx.saved[0] * grad


class Wrong(Square):
    @staticmethod
    def backward(ctx, grad):
        return 3 * ctx.saved[0] * grad


class Keyword(Square):
    cases = None

    @staticmethod
    def forward(ctx, x, *, scale):
        return x


def product(a, b):
    return a * b


NUMBER = 3
'''


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder, with modules in it."""
    (tmp_path / "my_ops.py").write_text(OPS)
    (tmp_path / "broken_ops.py").write_text("import nowhere_to_be_found")
    (tmp_path / "wrong_syntax.py").write_text("def f(:")
    (tmp_path / "plain.py").write_text("from octsod.functional import exp\ndef cube(x):\n    return x * x * x\n")
    (tmp_path / "empty.py").write_text("from octsod.autograd import Function\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p])
    yield tmp_path
    for name in ("my_ops", "broken_ops", "wrong_syntax", "plain", "empty"):
        sys.modules.pop(name, None)


def run(*arguments):
    result = CliRunner().invoke(main, ["check", *arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stdout, result.stderr


@pytest.mark.parametrize("target", ["my_ops:Square", "my_ops.py:Square", "./my_ops.py:Square"])
def test_an_op_that_passes(folder, target):
    code, out, err = run(target, "--device", "cpu")
    assert code == 0 and not err
    assert out.startswith("Square: PASS (2 cases)\n") and "  PASS  gradients " in out


def test_an_op_that_fails(folder):
    code, out, _ = run("my_ops:Wrong", "--checks", "gradients,convergence,threads")
    assert code == 1
    assert out.startswith("Wrong: FAIL") and "  FAIL  gradients\n" in out and "  PASS  threads" in out
    assert "reproduce: check_op(Wrong, Case((Input((1,)),), seed=5))" in out


def test_json(folder):
    code, out, _ = run("my_ops:Wrong", "--json", "--checks", "convergence,runs")
    found = json.loads(out)
    assert code == 1 and found["op"] == "Wrong" and found["verdict"] == "FAIL" and found["examples"] == 2
    runs, convergence = found["checks"]
    assert (runs["check"], runs["verdict"], runs["reproduce"]) == ("runs", "PASS", None)
    assert "numeric" in convergence["message"] and convergence["reproduce"].startswith("check_op(Wrong, Case(")


def test_functions_and_our_own(folder):
    assert run("my_ops:product", "--examples", "2", "--checks", "gradients,aliasing")[0] == 0
    code, out, _ = run("octsod.functional:sigmoid", "--examples", "1", "--seed", "3", "--checks", "gradients")
    assert code == 0 and out.startswith("sigmoid: PASS (1 case)")


@pytest.mark.parametrize("arguments, message", [
    (("my_ops:square",), "my_ops has no 'square'. Did you mean 'Square'? Its ops: Square, Wrong, Keyword."),
    (("my_ops.py:Nope",), "my_ops.py has no 'Nope'. Its ops: Square, Wrong, Keyword."),
    (("my_ops:produkt",), "my_ops has no 'produkt'. Did you mean 'product'? Its ops:"),
    (("octsod.ops:Conv2D",), "octsod.ops has no 'Conv2D'. Did you mean 'Conv2d'? Its ops: "),
    (("plain.py:Nope",), "plain.py has no 'Nope'. Its ops: cube."),
    (("empty.py:Nope",), "empty.py has no 'Nope'. It has no ops."),
    (("my_op:Square",), "There is no module 'my_op'. Did you mean 'my_ops'?"),
    (("octsod.op:Conv2d",), "There is no module 'octsod.op'. Did you mean 'octsod.ops'?"),
    (("my_op.py:Square",), "my_op.py: no such file. Did you mean 'my_ops.py'?"),
    (("no/such/file.py:Square",), "file.py: no such file."),
    (("my_ops:NUMBER",), "my_ops:NUMBER is a int; expected a class of `Function` or a function."),
    (("my_ops",), "my_ops: name an op in it, such as my_ops:OP. Its ops: Square, Wrong, Keyword."),
    (("my_ops.py",), "my_ops.py: name an op in it, such as my_ops.py:OP. Its ops: Square, Wrong, Keyword."),
    (("my_ops.py:",), "my_ops.py: name an op in it"),
    (("my_op",), "There is no module 'my_op'. Did you mean 'my_ops'?"),
    ((":Square",), "MODULE:OP is ':Square'; expected a module and an op in it"),
    (("my-ops:Square",), "'my-ops' is no name of a module"),
    (("my_ops:Keyword",), "nothing is known of the inputs of `Keyword`; give `cases`"),
    (("my_ops:Square", "--checks", "gradient"), "`checks` has 'gradient' (did you mean 'gradients'?); expected"),
    (("my_ops:Square", "--checks", "runs, colour"), "`checks` has 'colour'; expected some of guards, unmodified, "),
    (("broken_ops:f",), "broken_ops: cannot be imported: there is no module 'nowhere_to_be_found'."),
    (("wrong_syntax:f",), "wrong_syntax: cannot be imported: SyntaxError"),
    (("wrong_syntax.py:f",), "wrong_syntax.py: cannot be imported: SyntaxError"),
])  # fmt: skip
def test_what_cannot_be_found(folder, arguments, message):
    code, out, err = run(*arguments)
    assert code == 2 and not out and message in err


TESTS = '''
import pytest
import octsod.testing
from my_ops import Square, Wrong, product


@octsod.testing.parametrize_ops(Square, product, examples=2, checks=["runs", "gradients", "adjoint"])
def test_right():
    pass


@octsod.testing.parametrize_ops(Wrong, checks=["convergence", "threads"])
def test_wrong(op, check, tmp_path, verdict):
    assert op is Wrong and check == "threads" == verdict.check and tmp_path.is_dir()


class TestInClasses:
    @octsod.testing.parametrize_ops((product, octsod.testing.Case([octsod.testing.Input(2)] * 2)), checks=["runs"])
    @pytest.mark.parametrize("more", [1, 2])
    def test_pairs(self, more, op):
        assert more in (1, 2)
'''


def test_parametrize_ops(folder):
    (folder / "test_ops.py").write_text(TESTS)
    command = [sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider", "test_ops.py"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    out = done.stdout
    assert done.returncode == 1, out + done.stderr
    for line in (
        "test_right[Square-runs] PASSED", "test_right[Square-gradients] PASSED", "test_right[Square-adjoint] SKIPPED",
        "test_right[product-adjoint] PASSED", "test_wrong[Wrong-convergence] FAILED",
        "test_wrong[Wrong-threads] PASSED",
        "1 failed, 8 passed, 1 skipped",
    ):  # fmt: skip
        assert line in out, out
    assert "test_pairs[product-runs-1]" in out or "test_pairs[1-product-runs]" in out
    assert "numeric" in out and "reproduce: check_op(Wrong" in out


def test_the_help_names_all_checks():
    words = " ".join(run("--help")[1].split())
    assert f"any of {', '.join(octsod.testing.CHECKS)}. [default: all that apply]" in words


def test_what_parametrize_ops_refuses():
    with pytest.raises(ValueError, match="there is no op; expected at least one"):
        octsod.testing.parametrize_ops()
    with pytest.raises(ValueError, match="did you mean 'runs'"):
        octsod.testing.parametrize_ops(octsod.ops.Exp, checks=["run"])


def test_without_hypothesis_and_pytest():
    """What users have installed: only strategies, and so drawn cases, need them."""
    program = textwrap.dedent("""
        import sys
        sys.modules["hypothesis"] = sys.modules["pytest"] = None
        import octsod.testing
        from octsod.testing import Case, Input, check_op
        print(check_op(octsod.functional.exp, Case((Input((2,)),)), checks=["gradients"]).verdict)
        for name in ("strategies", "parametrize_ops"):
            try:
                getattr(octsod.testing, name)
            except ModuleNotFoundError as error:
                print(error)
        try:
            check_op(octsod.functional.exp)
        except ModuleNotFoundError as error:
            print(error)
    """)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    lines = done.stdout.splitlines()
    assert lines[0] == "PASS", done.stderr
    assert lines[1] == 'octsod.testing.strategies needs hypothesis; `pip install "octsod[test]"` installs it.'
    assert lines[2] == 'octsod.testing.parametrize_ops needs pytest; `pip install "octsod[test]"` installs it.'
    assert 'needs hypothesis; `pip install "octsod[test]"` installs it' in lines[3]


def test_progress_and_guesses_are_told(folder):
    """Guessed cases are named as such, in case they do not fit the op; progress goes to standard error alone."""
    arguments = ["check", "my_ops.py:product", "--examples", "3", "--checks", "runs,parts"]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 0 and "case 0/3" in done.stderr and "case 3/3" in done.stderr
    assert done.stdout.splitlines()[1].strip().startswith("given arrays of one shape, a guess;")
    assert "guess" not in CliRunner().invoke(main, ["check", "my_ops.py:Square"]).output
    assert json.loads(CliRunner().invoke(main, [*arguments, "--json"]).stdout)["guessed"] is True
    assert CliRunner().invoke(main, [*arguments, "--quiet"]).stderr == ""
