"""The lock of code versions: no step's code may change unnoticed, since its VERSION stands in every key.

`versions.json` records for each kind its VERSION and a hash of the sources that it reaches. Where the sources changed,
`make versions` updates the record: with a new VERSION (other results), or without one if the tiny grid gives the same
rows as the committed code.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from unmask_tf.errors import InputError
from unmask_tf.experiment.kinds import KINDS
from unmask_tf.experiment.step import kind_module
from unmask_tf.files import read_json, write_json

LOCK = Path(__file__).with_name("versions.json")
SAME_VERSION = "its code changed, and its VERSION did not"
_PACKAGE = Path(__file__).parents[1]


def reached(kind: str) -> list[str]:
    """Modules of this package that a kind's module imports, directly or not, itself included; sorted."""
    module = f"unmask_tf.experiment.kinds.{kind}"
    return sorted({module, *_imports().find_upstream_modules(module)})


@functools.cache
def _imports() -> Any:
    """The package's graph of imports."""
    import grimp

    return grimp.build_graph("unmask_tf", cache_dir=None)


def code_of(module: str) -> str:
    """A module's source without comment lines, blank lines and docstrings."""
    path = _PACKAGE.parent.joinpath(*module.split("."))
    source = (path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text(encoding="utf-8")
    dropped: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
        if isinstance(node, documented) and ast.get_docstring(node, clean=False) is not None:
            dropped.update(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    lines = [line for number, line in enumerate(source.splitlines(), 1) if number not in dropped]
    return "\n".join(line for line in lines if line.strip() and not line.lstrip().startswith("#"))


def present() -> dict[str, dict[str, Any]]:
    """Kind -> its VERSION and the hash of its sources, as they are now."""
    found = {}
    for kind in KINDS:
        code = "\n".join(f"{module}\n{code_of(module)}" for module in reached(kind))
        found[kind] = {"version": kind_module(kind).VERSION, "code": hashlib.sha256(code.encode()).hexdigest()}
    return found


def changed() -> dict[str, str]:
    """Kind -> what is wrong: code that changed while its VERSION and the lock did not."""
    locked, now = read_json(LOCK), present()
    wrong = {}
    for kind, entry in now.items():
        before = locked.get(kind, {})
        if entry != before:
            wrong[kind] = SAME_VERSION if entry["version"] == before.get("version") else "its VERSION is not the lock's"
    return wrong


def update(*, other_results: bool = False, same_results: bool = False) -> str:
    """Compares with the lock and, where that is wished, updates it; returns what to tell the user.

    Args:
        other_results: accept every kind whose code changed and whose VERSION was raised.
        same_results: accept code that changed while its VERSION did not, if the tiny grid gives the same rows.

    Raises:
        InputError: there is something to decide, or the decision does not fit the code.
    """
    wrong = changed()
    if not wrong:
        return "Every kind's code is the one in the lock."
    listed = "; ".join(f"{kind}: {reason}" for kind, reason in wrong.items())
    unversioned = [kind for kind, reason in wrong.items() if reason == SAME_VERSION]
    if same_results:
        if not same_rows():
            raise InputError(
                f"the tiny grid gives other rows than the committed code. Raise VERSION in the kinds concerned "
                f"({listed}), then run: make versions EXTRA=--other-results"
            )
    elif not other_results or unversioned:
        raise InputError(
            f"{listed}. If results can differ, raise VERSION in these kinds and run: make versions "
            "EXTRA=--other-results. If they cannot, run: make versions EXTRA=--same-results"
        )
    write_json(LOCK, present())
    return f"The lock is updated ({listed})."


def same_rows() -> bool:
    """Whether the tiny grid gives the same rows here as with the code of the last commit."""
    top = _PACKAGE.parent
    with TemporaryDirectory() as folder:
        committed = Path(folder) / "committed"
        subprocess.run(["git", "worktree", "add", "--detach", committed, "HEAD"], cwd=top, check=True)
        try:
            found = []
            for code, name in ((committed, "before"), (top, "now")):
                command = [sys.executable, "-m", "unmask_tf", "tiny", str(Path(folder) / name)]
                subprocess.run(command, cwd=code, env={**os.environ, "PYTHONPATH": str(code)}, check=True)
                found.append((Path(folder) / name / "results" / "mini" / "rows" / "grid.csv").read_bytes())
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", committed], cwd=top, check=True)
    return found[0] == found[1]
