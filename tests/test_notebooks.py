"""The notebooks: committed clean, thin and importable; executed from anywhere at tiny parameters."""

import ast
import importlib
import re
from pathlib import Path

import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient

from unmask_tf.data.settings import SyntheticConfig
from unmask_tf.data.synthetic import build_dataset
from unmask_tf.experiment.rows import Header, RowSet, frame, write_bundle
from unmask_tf.taxonomy import UNMASK

REPOSITORY = Path(__file__).parents[1]
NOTEBOOKS = sorted((REPOSITORY / "notebooks").glob("*.ipynb"))
WHOLE_PATH = REPOSITORY / "notebooks" / "00_whole_path.ipynb"
MODEL_K = REPOSITORY / "notebooks" / "02_model_k.ipynb"

every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def code_of(notebook):
    """Sources of the code cells, without magics."""
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    return [re.sub(r"(?m)^%.*$", "", cell.source) for cell in cells]


def parameters_cell(notebook):
    """Position and assigned names of the cell tagged `parameters`."""
    (position,) = [i for i, cell in enumerate(notebook.cells) if "parameters" in cell.metadata.get("tags", ())]
    assigned = [node for node in ast.parse(notebook.cells[position].source).body if isinstance(node, ast.Assign)]
    return position, {target.id for node in assigned for target in node.targets}


def test_there_is_a_notebook_of_the_whole_path():
    assert WHOLE_PATH in NOTEBOOKS


@every_notebook
def test_it_is_valid_and_stores_no_output(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        assert cell.get("outputs", []) == []
        assert cell.get("execution_count") is None
        assert not set(cell.metadata) - {"tags"}
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
    assert notebook.metadata.kernelspec.name == "python3"


@every_notebook
def test_it_names_no_local_path(path):
    found = re.findall(
        r"(?<![\w.)\]])(?:/(?:home|Users|tmp|work|root|mnt|data|usr|var|opt)\b|[A-Z]:\\\\)", path.read_text()
    )
    assert found == []


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
                place = r"\((Section|Table|Figure|Equation|Algorithm) "
                assert re.search(place, cell.source.splitlines()[0]), f"{cell.source} names no place in the paper"


@every_notebook
def test_the_parameters_are_plain_assignments(path):
    notebook = nbformat.read(path, as_version=4)
    position, names = parameters_cell(notebook)
    assert {"PROFILE", "DATA", "K_WEIGHTS", "RESULTS"} <= names
    for node in ast.parse(notebook.cells[position].source).body:
        assert isinstance(node, (ast.Import, ast.Assign))


def random_k(path):
    """Random weights of K with a bias for one part, so that there are detections to draw and to align."""
    import keras

    from unmask_tf.mrcnn.config import preset
    from unmask_tf.mrcnn.model import MaskRCNN
    from unmask_tf.mrcnn.weights import save_weights
    from unmask_tf.taxonomy import PARTS

    keras.utils.set_random_seed(0)
    k = MaskRCNN("inference", preset("mini"), path.parent).keras_model
    (layer,) = [layer for layer in k._flatten_layers() if layer.name == "mrcnn_class_logits"]
    bias = np.zeros(len(PARTS) + 1, np.float32)
    bias[PARTS.index("wheel") + 1] = 9.0
    layer.set_weights([layer.get_weights()[0], bias])
    save_weights(k, path)
    return path


def some_rows(folder):
    """Four images; of the attacked ones M answers one rightly, adversarially trained two, and UnMask three."""
    true, wrong, row_sets = "car", "train", []
    classes = {name: list(UNMASK.classes[name]) for name in UNMASK.class_sets["cs3a"]}
    for attack, epsilon, right, score in (("none", 0, (4, 4, 4), 0.2), ("mia_linf", 8, (1, 2, 3), 0.9)):
        for defence, correct in zip(("none", "at", "um"), right, strict=True):
            answers = [true] * correct + [wrong] * (4 - correct)
            of_m = [true] * right[0] + [wrong] * (4 - right[0])
            names = [f"test/{true}/{i}.png" for i in range(4)]
            scores = np.full(4, score) if defence == "um" else None
            header = Header(
                key=f"{defence} {attack}",
                data="mini",
                split="test",
                class_set="cs3a",
                classes=classes,
                model="resnet50",
                defence=defence,
                attack=attack,
                epsilon_255=epsilon,
                threat={} if attack == "none" else {"preset": "released", "iterations": 20, "iterations_asked": 20},
                checks={} if attack == "none" else {"deterministic": True},
                training={"recipe": "released" if defence == "at" else "none", "epochs": 1, "stopped": "epochs"},
            )
            row_sets.append(RowSet(header, frame(names, [true] * 4, answers, of_m, None, scores)))
    write_bundle(folder, "grid", row_sets)


TINY = {
    "PROFILE": "mini",
    "ARCHITECTURE": "mobilenet_v2",
    "N_IMAGES": 3,
    "N_SHOWN": 2,
    "ITERATIONS": 2,
    "VAL_IMAGES": 3,
    "TRAIN_IMAGES": 6,
}


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A tiny embedded dataset and weights of K."""
    root = tmp_path_factory.mktemp("notebook")
    build_dataset(root / "data", SyntheticConfig(parts_images=(1, 1, 2), class_images=(4, 1, 1)))
    random_k(root / "k.weights.h5")
    return root


def execute(folder, results, monkeypatch, path=WHOLE_PATH, tiny=TINY):
    """The executed notebook at tiny parameters, run in `folder`, with the data and K of `folder`."""
    paths = {"DATA": folder / "data", "K_WEIGHTS": folder / "k.weights.h5", "RESULTS": results}
    parameters = tiny | {name: str(path) for name, path in paths.items()}
    notebook = nbformat.read(path, as_version=4)
    position, names = parameters_cell(notebook)
    assert set(parameters) <= names
    given = "\n".join(f"{name} = {value!r}" for name, value in parameters.items())
    notebook.cells.insert(position + 1, nbformat.v4.new_code_cell(given))
    # As the Makefile does: the package is found by PYTHONPATH, and pictures must not need a backend of pyplot.
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    monkeypatch.setenv("MPLBACKEND", "Agg")
    client = NotebookClient(notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(folder)}})
    client.execute()
    return notebook


def outputs(notebook, kind):
    """Everything of a MIME type that the cells showed."""
    shown = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    return [output.data[kind] for output in shown if kind in output.get("data", {})]


def printed(notebook):
    """What the cells wrote to standard output."""
    streams = [
        output for cell in notebook.cells for output in cell.get("outputs", ()) if output.output_type == "stream"
    ]
    return "".join(output.text for output in streams if output.name == "stdout")


def test_the_whole_path_runs_from_any_folder(workplace, monkeypatch):
    some_rows(workplace / "results" / "mini" / "rows")
    before = sorted(path.relative_to(workplace) for path in workplace.rglob("*"))
    notebook = execute(workplace, workplace / "results", monkeypatch)
    # V, parts, texture, K, two attacks, K on attacked images, ROC.
    assert len(outputs(notebook, "image/png")) == 8
    text = printed(notebook)
    assert "stand-in" in text
    assert "pgd_l2 eps 300: M is right on" in text and "mia_linf eps 8: M is right on" in text
    assert re.search(r"threshold t = \d\.\d+, chosen on 3 benign images", text)
    tables = "\n".join(outputs(notebook, "text/plain"))
    assert "parts seen" in tables and "wheel" in tables
    results = "\n".join(outputs(notebook, "text/markdown"))
    assert "MIA-L∞ ε=8" in results and "| 0.75 [0.30, 0.95] | 0.82 | -0.07 |" in results
    assert sorted(path.relative_to(workplace) for path in workplace.rglob("*")) == before, "it writes nothing"


def test_model_k_is_shown_from_any_folder(workplace, monkeypatch):
    before = sorted(path.relative_to(workplace) for path in workplace.rglob("*"))
    tiny = {"PROFILE": "mini", "IMAGE": 1, "N_SHOWN": 4}
    notebook = execute(workplace, workplace / "results", monkeypatch, MODEL_K, tiny)
    # Ground truth, anchors, proposals, targets, ROIs, masks, detections, weights.
    assert len(outputs(notebook, "image/png")) == 8
    text = printed(notebook)
    assert "k.weights.h5: 240 loaded, 0 excluded, 0 missing, 0 unexpected, 0 mismatched" in text
    assert re.search(r"f_r = \[.*'wheel'.*\]", text) and "anchors (4092, 4)" in text
    assert "suspicious kernels: 0 of 50" in text
    assert sorted(path.relative_to(workplace) for path in workplace.rglob("*")) == before, "it writes nothing"


def test_a_trained_m_is_found_and_missing_rows_are_told(workplace, tmp_path, monkeypatch):
    from unmask_tf.classifiers.build import build_classifier, save_classifier
    from unmask_tf.experiment.grid import Grid
    from unmask_tf.experiment.kinds import train_m
    from unmask_tf.experiment.publish import finished
    from unmask_tf.experiment.runner import run
    from unmask_tf.experiment.setup import prepare

    def untrained(settings, inputs, output, resources):
        model = build_classifier(settings.architecture, len(settings.classes), input_size=64, weights="random")
        metadata = {"architecture": settings.architecture, "classes": settings.classes, "input_size": 64}
        save_classifier(model, output, metadata)
        return {}

    monkeypatch.setattr(train_m, "run", untrained)
    paths = {"data": workplace / "data", "k_weights": workplace / "k.weights.h5", "results": tmp_path}
    a_run = prepare("mini", **paths)
    step = Grid(a_run).model("cs3a", TINY["ARCHITECTURE"])
    assert finished(a_run, step) is None
    output = run([step], a_run.folder)[step]
    assert finished(a_run, step) == output.path
    text = printed(notebook := execute(workplace, tmp_path, monkeypatch))
    assert f"{output.path.name}: " in text
    assert "There are no rows yet: make reproduce PROFILE=mini" in text
    assert len(outputs(notebook, "image/png")) == 7
