"""A training that was cut off goes on after its last finished epoch, as if nothing had happened."""

import hashlib
import importlib
import json
import re
from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray
from ruamel.yaml import YAML

from cxr import distribution, paths
from cxr.datasets import ShuffledIndices
from cxr.errors import CxrError
from cxr.files import remove, replacing

Row = dict[str, float]
VARIABLES = "variables.npz"
STATE = "state.json"  # names the other files of an epoch, with their hashes


class TrainingCheckpoint(keras.callbacks.Callback):
    """Keeps the history, and after each epoch on disk all that the rest of a training depends on:
    weights, the optimizer's state, the state of random numbers, and how early stopping stands.

    Each epoch has a folder of its own, and the one before it is removed only then, so that there is
    a whole one whenever the training is cut off. It belongs to one state of data, code, parameters
    and libraries, its `mark`; any other is not used, and none that is damaged.

    Args:
        variant: of the training.
        resume: whether to keep it on disk; a training over several processes never does, as hosts
            without a common folder would go on from different epochs.
        batches: of the training, to go on with their epochs.
        stopping: the callback that ends the training early, if there is one.

    Raises:
        CxrError: something is missing on which the training's stage depends.
    """

    def __init__(
        self,
        variant: str,
        resume: bool,
        batches: ShuffledIndices,
        stopping: keras.callbacks.EarlyStopping | None,
    ) -> None:
        super().__init__()
        self.kept = resume and distribution.process_info().count == 1
        self.folder = paths.resume(variant)
        self.mark = stage_fingerprint(f"train_{variant}") if self.kept else ""
        self.batches, self.stopping = batches, stopping
        self.rows: list[Row] = []
        self.found: dict[str, Any] = {}

    def restore(self, model: keras.Model) -> int:
        """Bring a compiled model to where it was; the number of epochs that it has had."""
        if not self.kept or (folder := self._usable()) is None:
            return 0
        state = _read(folder)
        model.optimizer.build(model.trainable_variables)
        for variable, value in zip(_variables(model), _load(folder / VARIABLES), strict=True):
            variable.assign(value)
        self.rows, self.found = state["rows"], state["stopping"]
        if self.found:
            self.found["best_weights"] = _load(folder / "best.npz")
        self.batches.skip_epochs(len(self.rows))
        print(f"goes on after epoch {len(self.rows)}, which was kept in {folder}")
        return len(self.rows)

    def _usable(self) -> Path | None:
        """Folder of the last epoch from which this training can go on."""
        epochs = sorted(self.folder.glob("epoch*"), reverse=True)
        marks = [_read(epoch).get("mark") for epoch in epochs]
        if self.mark in marks:
            return epochs[marks.index(self.mark)]
        if epochs:
            other = "of other data, code, parameters or libraries" if marks[0] else "damaged"
            print(f"{epochs[0]} is {other}: begins anew")
        return None

    @property
    def stopped(self) -> bool:
        """Whether early stopping had ended the training that is restored."""
        return bool(self.found) and self.found["wait"] >= self.found["patience"]

    def on_train_begin(self, logs: Row | None = None) -> None:
        """Set early stopping, which Keras has just reset; it stands before this callback."""
        for name, value in self.found.items():
            setattr(self.stopping, name, value)

    def on_epoch_end(self, epoch: int, logs: Row | None = None) -> None:
        self.rows.append({name: float(value) for name, value in (logs or {}).items()})
        if self.kept and np.isfinite(list(self.rows[-1].values())).all():
            folder = self.folder / f"epoch{len(self.rows):06}"
            with replacing(folder) as part:
                part.mkdir()
                self._write(part)
            for other in set(self.folder.glob("epoch*")) - {folder}:
                remove(other)

    def _write(self, folder: Path) -> None:
        np.savez(folder / VARIABLES, *map(np.asarray, _variables(self.model)))
        stopping: dict[str, Any] = {}
        if self.stopping is not None:
            stopping = {
                name: getattr(self.stopping, name) for name in ("wait", "patience", "best_epoch")
            }
            stopping["best"] = None if self.stopping.best is None else float(self.stopping.best)
            np.savez(folder / "best.npz", *(self.stopping.best_weights or []))
        files = {file.name: _hash(file) for file in folder.iterdir()}
        state = {"mark": self.mark, "files": files, "rows": self.rows, "stopping": stopping}
        (folder / STATE).write_text(json.dumps(state), encoding="utf-8")


def _read(folder: Path) -> dict[str, Any]:
    """The state of an epoch; empty where a file of it is not there as it was written."""
    try:
        state: dict[str, Any] = json.loads((folder / STATE).read_text(encoding="utf-8"))
        whole = all(_hash(folder / name) == value for name, value in state["files"].items())
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return {}
    return state if whole else {}


def _variables(model: keras.Model) -> list[Any]:
    """Weights, the state of dropout and augmentation, and what the optimizer keeps."""
    return [*model.variables, *model.optimizer.variables]


def _load(file: Path) -> list[NDArray[Any]]:
    with np.load(file, allow_pickle=False) as arrays:
        return [arrays[name] for name in arrays.files]


def stage_fingerprint(stage: str) -> str:
    """Hash over all that the result of a stage of dvc.yaml depends on: the files that it names, the
    parameters that it names, the libraries that compute it, and the number of devices.

    Raises:
        CxrError: one of the files is missing.
    """
    named = _yaml(Path("dvc.yaml"))["stages"][stage]
    params = _yaml(paths.PARAMS)
    libraries = map(importlib.import_module, ("keras", keras.backend.backend(), "numpy"))
    known = {
        "params": {key: _value(params, key) for key in named.get("params", [])},
        "libraries": [f"{library.__name__} {library.__version__}" for library in libraries],
        "devices": distribution.devices(),
    }
    digest = hashlib.sha256(json.dumps(known, sort_keys=True).encode())
    for dep in named["deps"]:
        path = Path(re.sub(r"\$\{(.+?)\}", lambda key: str(_value(params, key[1])), dep))
        if not path.exists():
            raise CxrError(f"{path} is missing, on which {stage} depends: run `dvc repro {stage}`")
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file():
                digest.update(f"{file.as_posix()} {_hash(file)}\n".encode())
    return digest.hexdigest()


def _yaml(file: Path) -> dict[str, Any]:
    content: dict[str, Any] = YAML(typ="safe").load(file.read_text(encoding="utf-8"))
    return content


def _value(params: dict[str, Any], key: str) -> Any:
    """Of a key as `transfer.backbone`."""
    for name in key.split("."):
        params = params[name]
    return params


def _hash(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
