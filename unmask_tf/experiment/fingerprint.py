"""The lock of code versions: no step's code may change unnoticed, since its VERSION stands in every key.

`versions.json` records for each kind its VERSION and a hash of the sources that it reaches. Where the sources changed,
`make versions` updates the record: with a new VERSION (other results), or without one if the tiny grid gives the same
rows as the committed code.
"""

from __future__ import annotations

import ast
import hashlib
from pathlib import Path
from typing import Any

from unmask_tf.experiment.kinds import KINDS
from unmask_tf.experiment.step import kind_module
from unmask_tf.files import read_json, write_json

LOCK = Path(__file__).with_name("versions.json")
_PACKAGE = Path(__file__).parents[1]


def reached(kind: str) -> list[str]:
    """Modules of this package that a kind's module imports, directly or not, itself included; sorted."""
    import grimp

    graph, module = grimp.build_graph("unmask_tf", cache_dir=None), f"unmask_tf.experiment.kinds.{kind}"
    return sorted({module, *graph.find_upstream_modules(module)})


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
            same = entry["version"] == before.get("version")
            wrong[kind] = "its code changed, and its VERSION did not" if same else "its VERSION is not the lock's"
    return wrong


def lock() -> None:
    """Records the present state."""
    write_json(LOCK, present())
