"""Checkpoints: resume an interrupted training bit-exactly from its last completed epoch."""

import hashlib
import importlib
import json
import re
from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray
from pathspec import GitIgnoreSpec

from cxr import paths
from cxr.common.files import read_yaml, remove, replacing
from cxr.errors import CxrError
from cxr.training import distribution
from cxr.training.batches import ShuffledIndices

Row = dict[str, float]
VARIABLES = "variables.npz"
STATE = "state.json"  # lists the other files of an epoch, with their hashes


class TrainingCheckpoint(keras.callbacks.Callback):
    """Record the history; after each epoch, save the weights and the states of the optimizer,
    random generators and early stopping.

    Each epoch has its own folder. The previous one is removed only after it is complete, so a
    complete one exists whenever the training is interrupted. A checkpoint is valid for one state of
    data, code, parameters and libraries, the `fingerprint` of its stage; damaged checkpoints and
    those with another fingerprint are ignored.

    Args:
        variant: name of the variant.
        resume: whether to save checkpoints. A training over several processes saves none: hosts
            without a shared folder would resume from different epochs.
        batches: training batches; a resumed training skips their first epochs.
        stopping: early stopping callback, or None.

    Raises:
        CxrError: a dependency of the stage is missing.
    """

    def __init__(
        self,
        variant: str,
        resume: bool,
        batches: ShuffledIndices,
        stopping: keras.callbacks.EarlyStopping | None,
    ) -> None:
        super().__init__()
        self.enabled = resume and distribution.process_info().count == 1
        self.folder = paths.resume(variant)
        self.fingerprint = stage_fingerprint(f"train_{variant}") if self.enabled else ""
        self.batches, self.stopping = batches, stopping
        self.rows: list[Row] = []
        self.early_stopping: dict[str, Any] = {}

    def restore(self, model: keras.Model) -> int:
        """Load the checkpoint into a compiled model; return the number of its completed epochs."""
        if not self.enabled or (folder := self._usable()) is None:
            return 0
        state = _read(folder)
        model.optimizer.build(model.trainable_variables)
        for variable, value in zip(_variables(model), _load(folder / VARIABLES), strict=True):
            variable.assign(value)
        self.rows, self.early_stopping = state["rows"], state["stopping"]
        if self.early_stopping:
            self.early_stopping["best_weights"] = _load(folder / "best.npz")
        self.batches.skip_epochs(len(self.rows))
        print(f"resuming from epoch {len(self.rows)} ({folder})")
        return len(self.rows)

    def _usable(self) -> Path | None:
        """Folder of the last valid checkpoint, or None."""
        epochs = sorted(self.folder.glob("epoch*"), reverse=True)
        fingerprints = [_read(epoch).get("fingerprint") for epoch in epochs]
        if self.fingerprint in fingerprints:
            return epochs[fingerprints.index(self.fingerprint)]
        if epochs:
            changed = "other data, code, parameters or libraries"
            reason = changed if fingerprints[0] else "damaged"
            print(f"checkpoint {epochs[0]} ignored ({reason}): starting from scratch")
        return None

    @property
    def stopped(self) -> bool:
        """Whether early stopping had already ended the training of the checkpoint."""
        return (
            bool(self.early_stopping)
            and self.early_stopping["wait"] >= self.early_stopping["patience"]
        )

    def on_train_begin(self, logs: Row | None = None) -> None:
        """Restore early stopping, whose state Keras resets just before this callback."""
        for name, value in self.early_stopping.items():
            setattr(self.stopping, name, value)

    def on_epoch_end(self, epoch: int, logs: Row | None = None) -> None:
        self.rows.append({name: float(value) for name, value in (logs or {}).items()})
        if self.enabled and np.isfinite(list(self.rows[-1].values())).all():
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
        state = {
            "fingerprint": self.fingerprint,
            "files": files,
            "rows": self.rows,
            "stopping": stopping,
        }
        (folder / STATE).write_text(json.dumps(state), encoding="utf-8")


def _read(folder: Path) -> dict[str, Any]:
    """State of an epoch; empty if one of its files is missing or damaged."""
    try:
        state: dict[str, Any] = json.loads((folder / STATE).read_text(encoding="utf-8"))
        complete = all(_hash(folder / name) == value for name, value in state["files"].items())
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return {}
    return state if complete else {}


def _variables(model: keras.Model) -> list[Any]:
    """Weights, seeds of dropout and augmentation, and the optimizer's variables."""
    return [*model.variables, *model.optimizer.variables]


def _load(file: Path) -> list[NDArray[Any]]:
    with np.load(file, allow_pickle=False) as arrays:
        return [arrays[name] for name in arrays.files]


def stage_fingerprint(stage: str) -> str:
    """SHA-256 over the inputs of a stage of dvc.yaml: its dependencies (without the files that
    .dvcignore excludes), parameters, versions of libraries, and number of devices.

    Raises:
        CxrError: a dependency is missing.
    """
    definition = read_yaml(Path("dvc.yaml"))["stages"][stage]
    params = read_yaml(paths.PARAMS)
    libraries = map(importlib.import_module, ("keras", keras.backend.backend(), "numpy"))
    settings = {
        "params": {key: _value(params, key) for key in definition.get("params", [])},
        "libraries": [f"{library.__name__} {library.__version__}" for library in libraries],
        "devices": distribution.devices(),
    }
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    ignored = _ignored()
    for dep in definition["deps"]:
        path = Path(re.sub(r"\$\{(.+?)\}", lambda key: str(_value(params, key[1])), dep))
        if not path.exists():
            raise CxrError(f"{path}, a dependency of {stage}, is missing: run `dvc repro {stage}`")
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file() and not ignored.match_file(file):
                digest.update(f"{file.as_posix()} {_hash(file)}\n".encode())
    return digest.hexdigest()


def _ignored() -> GitIgnoreSpec:
    """Files that DVC ignores in folders, such as the bytecode that Python writes while training."""
    file = Path(".dvcignore")
    return GitIgnoreSpec.from_lines(file.read_text("utf-8").splitlines() if file.exists() else [])


def _value(params: dict[str, Any], key: str) -> Any:
    """Value of a dotted key such as `transfer.backbone`."""
    for name in key.split("."):
        params = params[name]
    return params


def _hash(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
