"""What a step is: kind, settings and inputs give a key, and the key names the output. Nothing else says what is done.

    key = sha256(kind, VERSION, settings, {input: key of its step, or SHA-256 of its files})

A kind is a module of `experiment/kinds/` with `VERSION`, a frozen dataclass `Settings`, `SUFFIX` of its output, `FRESH`
(it wants a process that has trained nothing yet), `GPU` (it gains by one), `cost(settings, inputs)`, perhaps
`entry(settings)`, the function of the table's entry that it calls (a user's own brings its file's hash into the key),
and `run(settings, inputs, output, resources) -> info`: a pure function from files to one file that reads nothing but
its settings and inputs. Beside the output lies its header, written last: `<name>-<key[:12]>.header.json`.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import sys
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from unmask_tf.errors import InputError
from unmask_tf.files import HashCache, atomic_path, locked, read_json, write_json

SCHEMA = "unmask-step-1"
Progress = Callable[[float], None]
"""Called with the fraction of a step that is done."""


@dataclass(frozen=True)
class Files:
    """Files of the user's, in order: names relative to a root, with forward slashes."""

    root: Path
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.names)


@dataclass(frozen=True, eq=False)
class Step:
    """One piece of work that ends in one file.

    Attributes:
        kind: a module of `experiment/kinds/`.
        name: what it is about; part of the output's name, not of the key.
        settings: the kind's `Settings`.
        inputs: name -> another step, one file, or some files.
    """

    kind: str
    name: str
    settings: Any
    inputs: Mapping[str, Step | Path | Files] = field(default_factory=dict)

    def before(self) -> list[Step]:
        """The steps whose outputs this one reads."""
        return [value for value in self.inputs.values() if isinstance(value, Step)]


def kind_module(kind: str) -> ModuleType:
    """The module of a kind of step."""
    return importlib.import_module(f"unmask_tf.experiment.kinds.{kind}")


def canonical(value: Any) -> str:
    """JSON that is the same for the same value: sorted names, no spaces, dataclasses as dictionaries.

    Raises:
        TypeError, ValueError: a value is no JSON, or not finite.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, default=asdict)


class Keys:
    """Keys of steps; files are hashed once as long as they do not change.

    Args:
        cache: where file hashes are remembered.
    """

    def __init__(self, cache: HashCache) -> None:
        self.cache = cache
        self._known: dict[int, tuple[Step, str]] = {}

    def of(self, step: Step) -> str:
        """The step's key: 64 hex digits.

        Raises:
            InputError: an input file is missing or cannot be read.
        """
        if id(step) not in self._known:
            version = kind_module(step.kind).VERSION
            inputs = {name: self.of_input(value) for name, value in step.inputs.items()}
            text = canonical([step.kind, version, step.settings, inputs, *self._foreign_code(step)])
            self._known[id(step)] = step, hashlib.sha256(text.encode()).hexdigest()
        return self._known[id(step)][1]

    def _foreign_code(self, step: Step) -> list[str]:
        """SHA-256 of the module that a user's own entry is defined in; nothing for the package's entries."""
        module = kind_module(step.kind)
        entry = module.entry(step.settings) if hasattr(module, "entry") else None
        entry = getattr(entry, "func", entry)  # of a functools.partial
        name = getattr(entry, "__module__", "unmask_tf")
        if name.partition(".")[0] == "unmask_tf":
            return []
        source = getattr(sys.modules[name], "__file__", None)
        if source is None:
            raise InputError(
                f"{step.name}: its code is in no file ({name}). Define it in a module (PLUGINS=my_module)."
            )
        return [self.cache.sha256(source)]

    def of_input(self, value: Step | Path | Files) -> str:
        """The key of a step, or the SHA-256 of a file, or a digest of the names and contents of files."""
        if isinstance(value, Step):
            return self.of(value)
        if isinstance(value, Path):
            return self.cache.sha256(value)
        listing = [[name, self.cache.sha256(value.root / name)] for name in value.names]
        return hashlib.sha256(canonical(listing).encode()).hexdigest()


@dataclass(frozen=True)
class Output:
    """Where a step's output lies or will lie."""

    path: Path
    key: str

    @property
    def header_path(self) -> Path:
        """The header beside it."""
        return self.path.parent / f"{self.path.name.split('.')[0]}.header.json"

    def header(self) -> dict[str, Any]:
        """Its header: `key`, `settings`, `inputs`, `seconds`, `versions`, and `info` as the kind returned it.

        Raises:
            InputError: it is missing or damaged.
        """
        return read_json(self.header_path)

    def done(self, cache: HashCache) -> bool:
        """Whether the file is there, whole, and made under this key."""
        try:
            header = read_json(self.header_path)
            return (
                header["schema"] == SCHEMA
                and header["key"] == self.key
                and cache.sha256(self.path) == header["output_sha256"]
            )
        except (InputError, KeyError, TypeError):
            return False


@dataclass(frozen=True)
class Task:
    """A step with everything resolved: what a worker gets. It can be pickled and needs no other step."""

    kind: str
    name: str
    settings: Any
    inputs: Mapping[str, Output | Path | Files]
    output: Output
    input_keys: Mapping[str, str]
    plugins: tuple[str, ...] = ()

    @property
    def cost(self) -> float:
        """Relative cost, for the remaining time alone."""
        return float(kind_module(self.kind).cost(self.settings, self.inputs))


def resolve(step: Step, results: Path, keys: Keys, plugins: Sequence[str] = ()) -> Task:
    """The task of a step whose outputs lie below a results folder."""

    def output_of(made: Step) -> Output:
        key = keys.of(made)
        readable = "".join(c if c.isalnum() or c in "_-" else "_" for c in made.name)
        suffix = kind_module(made.kind).SUFFIX
        return Output(results / made.kind / f"{readable}-{key[:12]}{suffix}", key)

    inputs = {name: output_of(value) if isinstance(value, Step) else value for name, value in step.inputs.items()}
    input_keys = {name: keys.of_input(value) for name, value in step.inputs.items()}
    return Task(step.kind, step.name, step.settings, inputs, output_of(step), input_keys, tuple(plugins))


class Memory:
    """What a worker keeps between steps: of each sort the thing it used last, by what it was made from."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, tuple[Hashable, Any]] = OrderedDict()

    def get(self, sort: str, source: Hashable, make: Callable[[], Any]) -> Any:
        """The thing of that sort and source, made anew where another source was used since."""
        if sort not in self._kept or self._kept[sort][0] != source:
            self._kept.pop(sort, None)  # first, so that two never need memory at once
            self._kept[sort] = source, make()
        return self._kept[sort][1]


@dataclass(frozen=True)
class Resources:
    """What a kind may use besides its settings and inputs; none of it changes the result.

    Attributes:
        progress: to be called with the fraction done.
        workdir: a folder of this key's own, for checkpoints; it outlives a kill and goes when the step is done.
        memory: what this worker keeps.
        input_keys: input name -> its key, the source of what is kept in memory.
    """

    progress: Progress
    workdir: Path
    memory: Memory
    input_keys: Mapping[str, str]


_MEMORY = Memory()


def execute(task: Task, progress: Progress = lambda _: None) -> str:
    """Runs a task in this process, unless its output is there; returns what to tell the user.

    The output is written under a temporary name, synced and renamed; its header follows. Another process at work on
    the same output is waited for.

    Raises:
        InputError: from the kind; the disk is full or the folder cannot be written.
    """
    import_plugins(task.plugins)
    module, output = kind_module(task.kind), task.output
    workdir = output.path.parent / f".work-{output.key[:12]}"
    lock = output.path.parent / f".lock-{output.key[:12]}"
    with locked(lock):
        cache = HashCache(os.devnull)
        if output.done(cache):
            return ""
        start = time.perf_counter()
        resources = Resources(progress, workdir, _MEMORY, task.input_keys)
        with atomic_path(output.path) as temporary:
            info = module.run(task.settings, task.inputs, temporary, resources)
        header = {
            "schema": SCHEMA,
            "kind": task.kind,
            "version": module.VERSION,
            "key": output.key,
            "settings": json.loads(canonical(task.settings)),
            "inputs": dict(task.input_keys),
            "output_sha256": cache.sha256(output.path),
            "versions": versions(),
            "seconds": round(time.perf_counter() - start, 3),
            "info": info,
        }
        write_json(output.header_path, header)
        remove_folder(workdir)
        lock.unlink(missing_ok=True)  # whoever waits for it finds the output done
    return str(info.get("said", ""))


def import_plugins(plugins: Sequence[str]) -> None:
    """Imports a user's modules, which add their entries to the tables as they are imported.

    Raises:
        InputError: one cannot be imported.
    """
    for name in plugins:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise InputError(
                f"the plugin '{name}' cannot be imported ({error}). Give a module's name (PLUGINS=my_module), and put "
                "its folder into PYTHONPATH."
            ) from error


def remove_folder(folder: Path) -> None:
    """Removes a folder with all it holds, if it is there."""
    import shutil

    shutil.rmtree(folder, ignore_errors=True)


def versions() -> dict[str, str]:
    """Package -> installed version, of the packages that decide a result."""
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for package in ("advertorch", "keras", "numpy", "tensorflow", "torch"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
