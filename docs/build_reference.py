"""Writes the API reference of the whole package into a folder: `python docs/build_reference.py FOLDER`."""

import importlib
import pkgutil
import sys
import warnings
from pathlib import Path

import pdoc

import unmask_tf


def build(folder: Path) -> None:
    """Documents every module; one that cannot be imported is an error."""
    names = [
        "unmask_tf",
        *(m.name for m in pkgutil.walk_packages(unmask_tf.__path__, "unmask_tf.") if "__" not in m.name),
    ]
    for module in map(importlib.import_module, names):
        for public in getattr(module, "__all__", ()):
            setattr(module, public, getattr(module, public))  # pdoc does not see what is imported when first used
    warnings.filterwarnings("ignore", "The module specification")  # most come with their package as well
    pdoc.render.configure(docformat="google", footer_text=f"unmask_tf {unmask_tf.__version__}")
    pdoc.pdoc(*names, output_directory=folder)


if __name__ == "__main__":
    build(Path(sys.argv[1]))
