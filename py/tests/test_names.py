"""The two names of the package, its stubs, and the other distribution called ``replicate``."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest
import sqlite_replicate
from sqlite_replicate import _native
from support import run, run_well


@pytest.mark.parametrize("order", ["replicate, sqlite_replicate", "sqlite_replicate, replicate"])
def test_both_names_are_one_module(order: str) -> None:
    run_well(
        f"""
        import {order}
        import replicate._native, sqlite_replicate._native
        from replicate._errors import ConfigError
        assert replicate is sqlite_replicate
        assert replicate._native is sqlite_replicate._native
        assert ConfigError is sqlite_replicate.ConfigError
        """
    )


def foreign_distribution(folder: Path) -> Path:
    """Another distribution called ``replicate``, as it looks when installed."""
    info = folder / "replicate-1.0.7.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: replicate\nVersion: 1.0.7\n")
    (folder / "replicate").mkdir()
    (folder / "replicate" / "__init__.py").write_text("foreign = True\n")
    return folder


def test_beside_the_other_distribution_a_warning_names_the_cure(tmp_path: Path) -> None:
    done = run(
        """
        sys.path.insert(0, sys.argv[1])
        import sqlite_replicate
        assert sqlite_replicate.start.__module__.startswith("sqlite_replicate")
        import replicate
        assert replicate.foreign
        """,
        foreign_distribution(tmp_path),
    )
    assert done.returncode == 0, done.stderr
    assert "RuntimeWarning" in done.stderr and "import sqlite_replicate" in done.stderr and "1.0.7" in done.stderr


def test_alone_there_is_no_warning() -> None:
    done = run("import replicate")
    assert (done.returncode, done.stderr) == (0, "")


def test_stubs_name_exactly_what_the_native_module_has() -> None:
    stub = ast.parse(Path(sqlite_replicate.__file__).with_name("_native.pyi").read_text())

    def names(body: list[ast.stmt]) -> set[str]:
        found = {node.name for node in body if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
        return found | {n.target.id for n in body if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name)}

    def public(thing: object) -> set[str]:
        return {name for name in vars(thing) if not name.startswith("_")}

    assert names(stub.body) == public(_native)
    for node in stub.body:
        if isinstance(node, ast.ClassDef):
            assert names(node.body) == public(getattr(_native, node.name)), node.name


def test_the_package_is_typed_under_both_names() -> None:
    folder = Path(sqlite_replicate.__file__).parent
    assert (folder / "py.typed").exists() and (folder.parent / "replicate" / "py.typed").exists()


def test_version_is_that_of_the_distribution() -> None:
    from importlib import metadata

    assert metadata.version("sqlite-replicate") == sqlite_replicate.__version__ == _native.VERSION


def test_sqlite_and_other_symbols_are_hidden() -> None:
    import subprocess

    library = _native.__file__
    assert library is not None
    out = subprocess.run(["nm", "-D", "--defined-only", library], capture_output=True, text=True, check=True).stdout
    exported = {line.split()[-1] for line in out.splitlines()}
    assert "PyInit__native" in exported
    assert not {name for name in exported if name.startswith(("sqlite3", "replicate_", "_Py"))}


def test_a_subinterpreter_is_refused_cleanly_where_it_can_be() -> None:
    done = run(
        """
        try:
            import _interpreters as interpreters
        except ImportError:
            import _xxsubinterpreters as interpreters
        import replicate
        inner = interpreters.create()
        try:
            failed = interpreters.run_string(inner, "import replicate")
        except Exception as error:
            failed = error
        print(failed)
        """
    )
    # Before 3.12 a module cannot refuse: it loads.
    told = "None" if sys.version_info < (3, 12) else "subinterpreters"
    assert done.returncode == 0 and told in done.stdout, done.stdout + done.stderr
