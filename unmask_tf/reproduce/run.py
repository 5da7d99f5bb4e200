"""Enumerates and runs the grid's cells: what is finished is never computed again, what was killed goes on."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tqdm import tqdm

from unmask_tf.attacks.settings import AdversarialTrainingConfig
from unmask_tf.errors import InputError
from unmask_tf.files import read_json, sha256, write_json
from unmask_tf.reproduce import records
from unmask_tf.reproduce.artefacts import BENIGN, Run, digest, key_of, read_taxonomy, verified_sha256
from unmask_tf.reproduce.records import DEFENCES, CellKey
from unmask_tf.reproduce.stages import Progress, Stages

# What each command runs, in order; later stages read the files of earlier ones.
COMMANDS: dict[str, tuple[str, ...]] = {
    "train-k": ("train-k",),
    "evaluate-k": ("train-k", "evaluate-k"),
    "train-m": ("train-m",),
    "attack": ("train-m", "benign", "attack"),
    "evaluate": ("train-k", "train-m", "benign", "attack", "extract", "evaluate"),
    "reproduce": ("train-k", "train-m", "benign", "attack", "extract", "evaluate", "evaluate-k"),
}

# Costs, for the remaining time only. A forward pass of ResNet-50 on a 64x64 image is 1; measured on two cores.
_BACKWARD = 1.5
_TRAINING_STEP = 5.0
_COMPILE = 5000.0
_ARCHITECTURE = {"densenet121": 1.3, "mobilenet_v2": 0.5, "resnet101": 2.0, "vgg16": 4.0}
_K_FORWARD = {"mini": 6.0, "photos": 15.0, "paper": 1000.0}
_K_TRAINING = 40.0  # over all epochs, in forward passes of K


@dataclass(frozen=True)
class Unit:
    """One piece of work that ends in one file.

    Attributes:
        stage: a stage of `COMMANDS`.
        title: what it is about, for the user.
        cost: relative cost.
        done: whether its file is there, under the present settings.
        work: computes the file and returns what to tell the user, or nothing.
    """

    stage: str
    title: str
    cost: float
    done: Callable[[], bool]
    work: Callable[[Progress], str]


def plan(run: Run, stages: Stages, names: Sequence[str]) -> list[Unit]:
    """All units of the named stages, in the order in which they can run."""
    return [unit for name in names for unit in _BUILDERS[name](run, stages)]


def _m_forward(run: Run, architecture: str) -> float:
    return _ARCHITECTURE.get(architecture, 1.0) * (run.profile.classifier.input_size / 64) ** 2


def _k_forward(run: Run) -> float:
    return _K_FORWARD.get(run.profile.part_detector.preset, 1.0)


def _train_k(run: Run, stages: Stages) -> Iterator[Unit]:
    # Shipped weights cost nothing: they shall not look like half of the work.
    cost = 0.0 if run.k_weights.is_file() else run.data.part_images["train"] * _K_TRAINING * _k_forward(run)
    yield Unit("train-k", f"K of profile {run.profile.name}", cost, run.k_weights.is_file, stages.train_k)


def _evaluate_k(run: Run, stages: Stages) -> Iterator[Unit]:
    if not (run.data.root / "parts_test.json").is_file():
        return  # the data brings no part annotations to test K on
    path, cost = run.folder / "model_k.json", run.data.part_images["test"] * _k_forward(run) * 2
    yield Unit(
        "evaluate-k",
        run.k_weights.name,
        cost,
        lambda: run.k_weights.is_file() and key_of(path) == run.model_k_key,
        stages.evaluate_k,
    )


def training_cost(run: Run, architecture: str, images: int, settings: AdversarialTrainingConfig | None = None) -> float:
    """Relative cost of training M on so many images: benignly, or adversarially by `settings`."""
    epochs, iterations = run.profile.classifier.epochs, 0
    if settings is not None:
        epochs, iterations = settings.epochs, settings.iterations
    step = _TRAINING_STEP + iterations * (1 + _BACKWARD)
    return _COMPILE + images * epochs * step * _m_forward(run, architecture)


def attack_cost(run: Run, architecture: str, images: int) -> float:
    """Relative cost of attacking M on so many images, once."""
    return images * (1 + _BACKWARD) * (run.profile.attack.iterations + 1) * _m_forward(run, architecture)


def _train_m(run: Run, stages: Stages, defences: Sequence[str] = ("none", "at")) -> Iterator[Unit]:
    for class_set, architecture in run.models:
        for defence in defences:
            where = (class_set, architecture, defence)
            settings = run.profile.adversarial_training if defence == "at" else None
            weights, history, key = run.model_path(*where), run.history_path(*where), run.model_key(*where)
            yield Unit(
                "train-m",
                " ".join(where),
                training_cost(run, architecture, run.count("train", class_set), settings),
                partial(_trained, weights, history, key),
                partial(stages.train_m, *where),
            )


def _trained(weights: Path, history: Path, key: str) -> bool:
    return weights.is_file() and key_of(history) == key


def _attack(run: Run, stages: Stages, benign: bool) -> Iterator[Unit]:
    settings = run.profile.attack
    for class_set, architecture in run.models:
        for target in ("none", "at"):
            for attack, epsilon in (BENIGN,) if benign else settings.cells():
                where = (class_set, architecture, target, attack, epsilon)
                path, key = run.attacked_path(*where), run.attacked_key(*where)
                images = run.test_images(class_set)
                name = f"{architecture} at" if target == "at" else architecture
                yield Unit(
                    "benign" if benign else "attack",
                    f"{class_set} {name}" + ("" if benign else f" {attack} eps {epsilon}"),
                    images * _m_forward(run, architecture) if benign else attack_cost(run, architecture, images),
                    partial(_written_under, path, key),
                    partial(stages.attack, *where),
                )


def _written_under(path: Path, key: str) -> bool:
    return key_of(path) == key


def _extract(run: Run, stages: Stages) -> Iterator[Unit]:
    for class_set in run.profile.class_sets:
        cells: list[tuple[str | None, str, float]] = [(None, *BENIGN)]
        cells += [(a, *cell) for a in run.profile.architectures for cell in run.profile.attack.cells()]
        for architecture, attack, epsilon in cells:
            where = (class_set, architecture, attack, epsilon)
            yield Unit(
                "extract",
                f"{class_set} benign" if architecture is None else f"{class_set} {architecture} {attack} eps {epsilon}",
                run.test_images(class_set) * _k_forward(run),
                partial(_extracted, run, where),
                partial(stages.extract, *where),
            )


def _extracted(run: Run, where: tuple) -> bool:
    return run.k_weights.is_file() and key_of(run.parts_path(*where)) == run.parts_key(*where)


def cells(run: Run) -> Iterator[CellKey]:
    """Every cell of the run's grid, in table order."""
    for class_set, architecture in run.models:
        for attack, epsilon in (BENIGN, *run.profile.attack.cells()):
            for defence in DEFENCES:
                yield run.cell(class_set, architecture, defence, attack, epsilon)


def _evaluate(run: Run, stages: Stages) -> Iterator[Unit]:
    for cell in cells(run):
        strength = "" if cell.attack == "none" else f" eps {cell.epsilon_255}"
        yield Unit(
            "evaluate",
            f"{cell.class_set} {cell.model} {cell.defence} under {cell.attack}{strength}",
            0.1,
            partial(_recorded, run, cell),
            lambda progress, cell=cell: stages.record(cell),
        )


def _recorded(run: Run, cell: CellKey) -> bool:
    return run.k_weights.is_file() and _config_hash(cell.path(run.records)) == run.config_hash


def _config_hash(path: Path) -> str | None:
    """A record's configuration; None where it is missing or damaged, and so to be computed again."""
    try:
        return records.read(path).config_hash
    except InputError:
        return None


_BUILDERS: dict[str, Callable[[Run, Stages], Iterable[Unit]]] = {
    "train-k": _train_k,
    "train-m": _train_m,
    "train-m-benign": partial(_train_m, defences=("none",)),
    "benign": partial(_attack, benign=True),
    "attack": partial(_attack, benign=False),
    "extract": _extract,
    "evaluate": _evaluate,
    "evaluate-k": _evaluate_k,
}


def run_stages(run: Run, command: str, stages: Stages | None = None) -> None:
    """Runs every unfinished unit that a command needs, with one progress bar over all of them.

    Args:
        run: the run.
        command: a key of `COMMANDS`.
        stages: the computations; None: the real ones.

    Raises:
        InputError: from any stage; finished units are kept.
    """
    names = COMMANDS[command]
    if "extract" in names and run.k_weights.is_file():
        verified_sha256(run.k_weights)  # wrong weights are refused before hours of work, not after
    units = plan(run, stages or Stages(run), names)
    run_units(run, units, before={"evaluate": lambda: discard_stale_records(run)})


def run_units(run: Run, units: Sequence[Unit], before: dict[str, Callable[[], None]]) -> None:
    """`execute` in the run's folder, which is marked as in use."""
    with _at_work(run.folder):
        if not (run.folder / "taxonomy.json").is_file() or read_taxonomy(run.folder) != run.taxonomy:
            run.taxonomy.to_json(run.folder / "taxonomy.json")  # tables are made from the folder alone
        execute(units, before)


def execute(units: Sequence[Unit], before: dict[str, Callable[[], None]]) -> None:
    """Runs the units that are not done, in order.

    Args:
        units: stages follow one another without mixing.
        before: stage -> what to do once before its first unit.
    """
    finished = [unit.done() for unit in units]
    total, number = Counter(unit.stage for unit in units), Counter[str]()
    start = sum(unit.cost for unit, done in zip(units, finished, strict=True) if done)
    for stage in total:
        kept = sum(done for unit, done in zip(units, finished, strict=True) if unit.stage == stage)
        if kept:
            print(f"[{stage}] {kept} of {total[stage]} finished before", flush=True)
    with tqdm(
        total=sum(unit.cost for unit in units),
        initial=start,
        disable=all(finished),
        bar_format="{percentage:3.0f} %|{bar}| {elapsed} gone, {remaining} to go, {desc}",
        smoothing=0.1,
        # In a log file, a line now and then.
        mininterval=0.2 if sys.stderr.isatty() else 60,
        dynamic_ncols=True,
    ) as bar:
        for unit, done in zip(units, finished, strict=True):
            number[unit.stage] += 1
            if number[unit.stage] == 1 and unit.stage in before:
                before[unit.stage]()
            if done or unit.done():
                bar.update(0 if done else unit.cost)
                continue
            place = f"{unit.stage} {number[unit.stage]}/{total[unit.stage]}"
            bar.set_description_str(place)
            end = bar.n + unit.cost
            message = unit.work(partial(_advance, bar, end, unit.cost))
            bar.update(end - bar.n)
            if message:
                tqdm.write(f"[{place}] {unit.title}: {message}")


def _advance(bar: tqdm, end: float, cost: float, fraction: float) -> None:
    bar.update(end - cost * (1 - fraction) - bar.n)


def discard_stale_records(run: Run) -> None:
    """Removes records that are not of this grid or not of this configuration: a table never mixes two."""
    expected = {cell.file_name for cell in cells(run)}
    found = [path for path in sorted(run.records.glob("*.json")) if not path.name.startswith(".")]
    stale = [path for path in found if path.name not in expected or _config_hash(path) != run.config_hash]
    for path in stale:
        path.unlink(missing_ok=True)
    if stale:
        print(f"[evaluate] {len(stale)} records of other settings are replaced", flush=True)


@contextmanager
def _at_work(folder: Path) -> Iterator[None]:
    """Marks the folder as in use; what killed writes left there is removed when nobody else is at work."""
    import fcntl

    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = open(folder / ".lock", "w")  # noqa: SIM115
    except OSError as error:
        raise InputError(f"cannot write to {folder}: {error.strerror}. Choose another folder (--results).") from error
    with lock:
        # It fails where another run is at work, or the file system knows no locks.
        with suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for path in folder.rglob(".partial-*"):
                path.unlink(missing_ok=True)
        with suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        yield


def rendering_key(folder: Path) -> str:
    """Digest of all that tables and figures depend on: all records, K's evaluation, the paper's numbers, this code."""
    inputs = sorted([*(folder / "records").glob("*.json"), *(folder / "line_search").glob("*/*.json")])
    inputs = [path for path in inputs if not path.name.startswith(".")]
    inputs += [folder / "model_k.json", folder / "taxonomy.json", Path(__file__).parents[2] / "results/published.json"]
    inputs += sorted(Path(__file__).parent.glob("*.py"))
    return digest([[path.parent.name, path.name, sha256(path)] for path in inputs if path.is_file()])


def render_once(folder: Path, name: str, outputs: Sequence[str], render: Callable[[], object]) -> bool:
    """Calls `render` unless the outputs were made from the very same inputs; returns whether it was called."""
    state, key = folder / ".rendered" / f"{name}.json", rendering_key(folder)
    if all((folder / output).is_file() for output in outputs) and state.is_file() and read_json(state) == {"key": key}:
        return False
    render()
    write_json(state, {"key": key})
    return True
