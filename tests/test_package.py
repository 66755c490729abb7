"""What is true of the package as a whole: its imports, its kernel cache."""

import ast
import importlib
import os
import pathlib
import re
import subprocess
import sys
import textwrap
import types

ROOT = pathlib.Path(__file__).parents[1]


def python(code, **environment):
    """Run `code` in a process of its own, outside of the checkout; returns what it printed."""
    full = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", **environment}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, env=full, timeout=300, cwd="/"
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


def test_import_needs_numpy_and_numba_only():
    python("""
        import sys
        for name in ("click", "rich", "PIL", "safetensors", "torch", "scipy", "matplotlib", "onnx", "cupy"):
            sys.modules[name] = None  # importing it raises ImportError
        import octsod
        import octsod.functional
        model = octsod.csnet(0.25)
        assert octsod.complexity(model).parameters > 0
    """)


def test_arrays_may_outlive_the_module_that_made_them():
    """At the end of a process, Python empties modules before all arrays are gone."""
    _, errors = python("""
        from octsod import memory
        array = memory.empty((1 << 20,), "float32")
        memory.pool = None
        del array
    """)
    assert not errors


def test_plain_import_is_light():
    out, _ = python("""
        import sys
        import octsod
        print("numba" in sys.modules, octsod.__version__)
    """)
    assert out.startswith("False ")


def test_training_on_the_reference_backend_loads_no_compiler():
    python("""
        import sys
        import numpy as np
        import octsod
        with octsod.use_backend("reference"):
            import octsod.training
            samples = [octsod.data.Sample("a", np.zeros((40, 40, 3), np.uint8), np.zeros((40, 40), np.uint8))] * 2
            trainer = octsod.training.Recipe().trainer(octsod.csnet(0.2))
            for batch in octsod.data.Loader(samples, 2, 32):
                trainer.step(*batch)
            assert trainer.steps == 1
            assert octsod.get_num_threads() > 0
        loaded = [name for name in ("numba", "llvmlite") if name in sys.modules]
        assert not loaded, loaded
    """)


def test_no_name_of_a_package_hides_one_of_its_modules():
    """A package that hands on a function named as its module is would make `package.module` mean either."""
    for folder, package in ((ROOT / "octsod", "octsod"), (ROOT / "kernels", "octsod.kernels")):
        for file in sorted(folder.rglob("__init__.py")):
            if package == "octsod" and "kernels" in file.relative_to(folder).parts:
                continue  # beside octsod/ in a checkout, but in it where it is installed
            name = ".".join((package, *file.parent.relative_to(folder).parts))
            found = importlib.import_module(name)
            for module in [*file.parent.glob("*.py"), *(path.parent for path in file.parent.glob("*/__init__.py"))]:
                if module.stem.startswith("__"):
                    continue
                importlib.import_module(f"{name}.{module.stem}")
                assert isinstance(getattr(found, module.stem), types.ModuleType), f"{name}.{module.stem}"


def test_type_checkers_know_what_is_loaded_on_first_use():
    """A package that loads names lazily imports the same names for editors, type checkers and the reference."""
    for package, modules in (("octsod", True), ("octsod.profiling", False), ("octsod.training", False)):
        loaded = importlib.import_module(package)
        tree = ast.parse(pathlib.Path(loaded.__file__).read_text(encoding="utf-8"))
        (block,) = (n for n in tree.body if isinstance(n, ast.If) and ast.unparse(n.test).endswith("CHECKING"))
        seen = {alias.asname for statement in block.body for alias in statement.names}
        assert seen == loaded._NAMES.keys() | (loaded._MODULES.keys() if modules else set())


def test_types_are_told():
    assert (ROOT / "octsod" / "py.typed").is_file()


USE_A_KERNEL = """
    import warnings
    import numpy as np
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        import octsod
        print((octsod.Tensor(np.ones(3)) + 1).numpy().sum())
        for w in caught:
            print(w.category.__name__, w.message)
"""


def test_without_a_writable_cache_kernels_run_with_one_warning(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("a file where the folder should be")
    out, _ = python(USE_A_KERNEL, OCTSOD_CACHE_DIR=str(blocked / "cache"))
    lines = out.splitlines()
    assert lines[0] == "6.0"
    assert [line for line in lines if "is not writable" in line] == lines[1:] and len(lines) == 2


def test_cache_is_used_and_an_edit_compiles_one_kernel(tmp_path):
    cache, checkout = tmp_path / "cache", tmp_path / "checkout"
    for folder in ("octsod", "kernels"):
        copy_python(ROOT / folder, checkout / folder)
    environment = {"OCTSOD_CACHE_DIR": str(cache), "PYTHONPATH": str(checkout)}
    assert python(USE_A_KERNEL, **environment)[0] == "6.0\n"
    (folder,) = cache.iterdir()
    stored = {file: file.stat().st_mtime_ns for file in folder.iterdir()}
    assert stored
    assert python(USE_A_KERNEL, **environment)[0] == "6.0\n"
    assert {file: file.stat().st_mtime_ns for file in folder.iterdir()} == stored  # nothing was compiled again
    # An edit must never go unnoticed: here even the time stamp stays the same.
    file = checkout / "kernels" / "cpu" / "elementwise.py"
    stamp = file.stat()
    source = file.read_text()
    edited = source.replace("_pairs(operator.add", "_pairs(operator.mul")
    assert edited != source and len(edited) == len(source)
    file.write_text(edited)
    os.utime(file, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert python(USE_A_KERNEL, **environment)[0] == "3.0\n"
    assert [*cache.iterdir()] == [folder]
    (new,) = set(folder.iterdir()) - stored.keys()
    assert new.name.startswith("elementwise._add-")


def copy_python(source, target):
    for file in source.rglob("*.py"):
        to = target / file.relative_to(source)
        to.parent.mkdir(parents=True, exist_ok=True)
        to.write_bytes(file.read_bytes())


def test_every_package_folder_is_installed():
    """`packages` in pyproject.toml is written by hand; a folder left out would be missing from the wheel."""
    text = (ROOT / "pyproject.toml").read_text()
    listed = set(re.findall(r'^    "(octsod[\w.]*)",$', text, re.MULTILINE))
    found = {".".join(p.parent.relative_to(ROOT).parts) for p in (ROOT / "octsod").rglob("__init__.py")}
    found |= {"octsod." + ".".join(p.parent.relative_to(ROOT).parts) for p in (ROOT / "kernels").rglob("__init__.py")}
    found |= {"octsod.recipes", "octsod.shipped"}  # data
    assert listed == found


def test_kernels_flush_subnormals_and_give_the_mode_back():
    out, _ = python("""
        import numpy as np
        import octsod
        from octsod import functional as f
        tiny = np.full((1, 1, 4, 64), 1e-40, np.float32)
        y = f.depthwise_conv2d(octsod.Tensor(tiny), octsod.Tensor(np.ones((1, 1, 1, 1), np.float32))).numpy()
        print((y == 0).all(), np.float32(1e-20) * np.float32(1e-20) > 0)
    """)
    assert out == "True True\n"
