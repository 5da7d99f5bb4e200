"""Writes the API reference of the whole package into a folder: `python docs/build_reference.py FOLDER`."""

import pkgutil
import sys
import warnings
from pathlib import Path

import pdoc

import unmask_tf


def build(folder: Path) -> None:
    """Documents every module; one that cannot be imported is an error."""
    for name in unmask_tf.__all__:
        getattr(unmask_tf, name)  # pdoc shows what is there already
    modules = [module.name for module in pkgutil.walk_packages(unmask_tf.__path__, "unmask_tf.")]
    warnings.filterwarnings("ignore", "The module specification")  # most come with their package as well
    pdoc.render.configure(docformat="google", footer_text=f"unmask_tf {unmask_tf.__version__}")
    pdoc.pdoc("unmask_tf", *(name for name in modules if not name.endswith("__main__")), output_directory=folder)


if __name__ == "__main__":
    build(Path(sys.argv[1]))
