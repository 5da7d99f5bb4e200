"""Executes notebooks, each in a fresh kernel: copies with outputs, or (--commit) these files with small outputs.

python notebooks/execute.py --output results/mini/notebooks
python notebooks/execute.py --commit notebooks/05_alignment.ipynb

UNMASK_PROFILE, UNMASK_DATA and UNMASK_K_WEIGHTS set the parameters. Committed outputs hold no photograph: of a notebook
whose name says photographs, the pictures are left out.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import io
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from PIL import Image

FOLDER = Path(__file__).parent
COLOURS = 48
TIMEOUT = 1800


def source_hash(notebook: nbformat.NotebookNode) -> str:
    """SHA-256 of the cells' kinds and sources: what outputs belong to."""
    return hashlib.sha256(repr([(cell.cell_type, cell.source) for cell in notebook.cells]).encode()).hexdigest()


def execute(path: Path, folder: Path) -> nbformat.NotebookNode:
    """The notebook with its outputs, run in `folder`."""
    notebook = nbformat.read(path, as_version=4)
    # The kernel's own log would only say that it talks to this process without encryption.
    client = NotebookClient(notebook, timeout=TIMEOUT, extra_arguments=["--log-level=ERROR"])
    client.resources = {"metadata": {"path": str(folder)}}
    client.execute()
    return notebook


def for_the_repository(notebook: nbformat.NotebookNode, pictures: bool) -> nbformat.NotebookNode:
    """Makes outputs small and free of what changes from run to run, and notes which sources they belong to."""
    for cell in notebook.cells:
        cell.metadata = {key: value for key, value in cell.metadata.items() if key == "tags"}
        if cell.cell_type == "code":
            cell.execution_count = None
            for output in cell.outputs:
                if "execution_count" in output:
                    output["execution_count"] = None
                data = output.get("data", {})
                if "image/png" in data:
                    data.pop("text/plain", None)
                    if pictures:
                        data["image/png"] = _small(data["image/png"])
                    else:
                        del data["image/png"]
                        data["text/plain"] = "(a picture: run the cell to see it)"
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook.metadata = {
        "kernelspec": kernel,
        "language_info": {"name": "python"},
        "source_sha256": source_hash(notebook),
    }
    return notebook


def _small(png: str) -> str:
    """A PNG in base64 with few colours, the thin lines' among them."""
    image = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB")
    few = image.quantize(COLOURS, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    target = io.BytesIO()
    few.save(target, "PNG", optimize=True)
    return base64.b64encode(target.getvalue()).decode()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("notebooks", nargs="*", type=Path, help="default: all")
    parser.add_argument("--output", type=Path, help="folder for copies with outputs")
    parser.add_argument("--commit", action="store_true", help="write small outputs into the notebooks themselves")
    options = parser.parse_args()
    if options.commit == (options.output is not None):
        parser.error("give --output FOLDER, or --commit")
    if options.output:
        options.output.mkdir(parents=True, exist_ok=True)
    for path in options.notebooks or sorted(FOLDER.glob("*.ipynb")):
        print(f"{path.stem} ...", end=" ", flush=True, file=sys.stderr)
        start = time.perf_counter()
        notebook = execute(path, path.parent)
        if options.commit:
            notebook = for_the_repository(notebook, pictures="photograph" not in path.stem)
        nbformat.write(notebook, path if options.commit else options.output / path.name)
        print(f"{time.perf_counter() - start:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
