"""The notebooks: thin, importable, committed with small outputs of their present cells; executed from anywhere."""

import ast
import importlib
import importlib.util
import re
from itertools import groupby
from pathlib import Path

import nbformat
import pytest

from unmask_tf.data.settings import SyntheticConfig
from unmask_tf.data.synthetic import build_dataset

REPOSITORY = Path(__file__).parents[1]
NOTEBOOKS = sorted((REPOSITORY / "notebooks").glob("*.ipynb"))
PHOTOGRAPHS = "07_photographs"
SIZE = 150_000

every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def load_module(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


executor = load_module(REPOSITORY / "notebooks" / "execute.py")


def code_of(notebook):
    """Sources of the code cells, without magics."""
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    return [re.sub(r"(?m)^(\s*)%.*$", r"\1pass", cell.source) for cell in cells]


def parameters_cell(notebook):
    """Position and assigned names of the cell tagged `parameters`."""
    (position,) = [i for i, cell in enumerate(notebook.cells) if "parameters" in cell.metadata.get("tags", ())]
    assigned = [node for node in ast.parse(notebook.cells[position].source).body if isinstance(node, ast.Assign)]
    return position, {target.id for node in assigned for target in node.targets}


def kinds(notebook, skip=()):
    """Per code cell, what its outputs are: the streams' names and the richest form of everything else.

    What they say may depend on the processor, and is asserted in the cells.
    """
    found = []
    for i, cell in enumerate(notebook.cells):
        if cell.cell_type == "code" and i not in skip:
            forms = [output.get("name") or max(output.data, key=_richness) for output in cell.outputs]
            found.append([form for form, _ in groupby(forms)])
    return found


def _richness(form):
    return ("text/plain", "text/html", "text/markdown", "image/png").index(form)


def pictures(notebook):
    return [
        output
        for cell in notebook.cells
        for output in cell.get("outputs", ())
        if any(form.startswith("image/") for form in output.get("data", {}))
    ]


def test_there_are_nine():
    assert [path.stem[:2] for path in NOTEBOOKS] == [f"{i:02d}" for i in range(9)]


def test_the_readme_lists_them():
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    assert re.findall(r"\]\(notebooks/(\w+)\.ipynb\)", text) == [path.stem for path in NOTEBOOKS]


@every_notebook
def test_it_is_valid_and_its_outputs_are_of_its_present_cells(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert notebook.metadata.source_sha256 == executor.source_hash(notebook), (
        f"{path.name} was edited after it was executed. Run: make notebooks EXTRA='--commit notebooks/{path.name}'"
    )
    assert set(notebook.metadata) == {"kernelspec", "language_info", "source_sha256"}
    assert notebook.metadata.kernelspec.name == "python3"
    for cell in notebook.cells:
        assert cell.get("execution_count") is None
        assert not set(cell.metadata) - {"tags"}
        for output in cell.get("outputs", ()):
            assert output.output_type != "error" and output.get("name") != "stderr"


@every_notebook
def test_its_outputs_are_small_and_hold_no_photograph(path):
    assert path.stat().st_size < SIZE
    assert (len(pictures(nbformat.read(path, as_version=4))) == 0) == (path.stem == PHOTOGRAPHS)


@every_notebook
def test_it_asserts_what_it_shows(path):
    code = "\n".join(code_of(nbformat.read(path, as_version=4)))
    assert sum(isinstance(node, ast.Assert) for node in ast.walk(ast.parse(code))) >= 3


@every_notebook
def test_it_names_no_local_path(path):
    notebook = nbformat.read(path, as_version=4)
    texts = [cell.source for cell in notebook.cells]
    for output in (output for cell in notebook.cells for output in cell.get("outputs", ())):
        texts += [text for form, text in output.get("data", {}).items() if form.startswith("text/")]
        texts.append(output.get("text", ""))
    local = r"(?<![\w.)\]])(?:/(?:home|Users|tmp|work|root|mnt|data|usr|var|opt)\b|[A-Z]:\\\\)"
    assert re.findall(local, "\n".join(texts)) == []


@every_notebook
def test_every_cell_parses_and_its_imports_exist(path):
    for source in code_of(nbformat.read(path, as_version=4)):
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    importlib.import_module(alias.name)
            elif isinstance(node, ast.ImportFrom):
                module = importlib.import_module(node.module)
                for alias in node.names:
                    if not hasattr(module, alias.name):
                        importlib.import_module(f"{node.module}.{alias.name}")


@every_notebook
def test_it_is_thin(path):
    notebook = nbformat.read(path, as_version=4)
    for source in code_of(notebook):
        assert len(source.splitlines()) <= 40
        for node in ast.walk(ast.parse(source)):
            assert not isinstance(node, ast.ClassDef)
            if isinstance(node, ast.FunctionDef):
                assert node.end_lineno - node.lineno < 5, f"{node.name} belongs in a module"
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            assert len(cell.source) <= 600
            if cell.source.startswith("## "):
                place = r"\((Section|Table|Figure|Equation|Algorithm)s? "
                assert re.search(place, cell.source.splitlines()[0]), f"{cell.source} names no place in the paper"


@every_notebook
def test_the_parameters_are_plain_assignments(path):
    notebook = nbformat.read(path, as_version=4)
    position, names = parameters_cell(notebook)
    assert names and ("PROFILE" in names or path.stem == PHOTOGRAPHS)
    for node in ast.parse(notebook.cells[position].source).body:
        assert isinstance(node, (ast.Import, ast.Assign))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """The embedded dataset with fewer images: those of the profile's that the notebooks look at."""
    folder = tmp_path_factory.mktemp("embedded") / "mini"
    build_dataset(folder, SyntheticConfig(parts_images=(1, 1, 60), class_images=(100, 20, 24)))
    return folder


@every_notebook
def test_it_runs_from_any_folder_and_prints_what_is_committed(path, data, tmp_path, monkeypatch):
    # As the Makefile does: the package is found by PYTHONPATH, and pictures must not need a backend of pyplot.
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    monkeypatch.setenv("MPLBACKEND", "Agg")
    monkeypatch.setenv("UNMASK_PROFILE", "mini")
    monkeypatch.setenv("UNMASK_DATA", str(data))
    before = sorted(found.relative_to(data) for found in data.rglob("*"))
    notebook = nbformat.read(path, as_version=4)
    position, names = parameters_cell(notebook)
    if {"RESULTS", "DATA"} <= names:  # else the results of a run in this checkout would be shown
        given = nbformat.v4.new_code_cell(f"RESULTS = {str(tmp_path / 'results')!r}")
        notebook.cells.insert(position + 1, given)
    copy = tmp_path / path.name
    nbformat.write(notebook, copy)
    executed = executor.execute(copy, tmp_path)
    skip = {position + 1} if len(notebook.cells) > len(nbformat.read(path, as_version=4).cells) else ()
    committed = nbformat.read(path, as_version=4)
    if path.stem == PHOTOGRAPHS:
        assert pictures(executed)
        executed = executor.for_the_repository(executed, pictures=False)
    assert kinds(executed, skip) == kinds(committed)
    assert sorted(found.relative_to(data) for found in data.rglob("*")) == before
    assert sorted(found.name for found in tmp_path.iterdir()) == [path.name], "it writes nothing"


def test_outputs_are_made_small_and_independent_of_the_run():
    picture = nbformat.v4.new_output("display_data", {"image/png": PNG, "text/plain": "<Figure at 0x7f>"})
    cell = nbformat.v4.new_code_cell("figure", outputs=[picture], execution_count=3, metadata={"execution": {}})
    for kept in (True, False):
        notebook = executor.for_the_repository(nbformat.v4.new_notebook(cells=[nbformat.from_dict(cell)]), kept)
        assert notebook.cells[0].execution_count is None and notebook.cells[0].metadata == {}
        assert ("image/png" in notebook.cells[0].outputs[0].data) == kept
        assert "0x7f" not in str(notebook.cells[0].outputs)


PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="  # one pixel
