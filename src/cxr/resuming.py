"""A training that was cut off goes on after its last finished epoch, as if nothing had happened."""

import hashlib
import json
from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray
from ruamel.yaml import YAML

from cxr import distribution, paths
from cxr.datasets import Ordered
from cxr.files import replacing

Row = dict[str, float]


class Progress(keras.callbacks.Callback):
    """Keeps the history, and after each epoch on disk all that the rest of a training depends on:
    weights, the optimizer's state, the state of random numbers, and how early stopping stands.

    What is on disk belongs to one state of data, code and parameters, its `mark`; any other is
    not used.

    Args:
        folder: for the state; None keeps nothing on disk.
        mark: of what the training depends on.
        batches: of the training, to go on with their epochs.
        stopping: the callback that ends the training early, if there is one.
    """

    def __init__(
        self,
        folder: Path | None,
        mark: str,
        batches: Ordered,
        stopping: keras.callbacks.EarlyStopping | None,
    ) -> None:
        super().__init__()
        # Hosts without a common folder would go on from different epochs.
        self.folder = folder if distribution.place().processes == 1 else None
        self.mark, self.batches, self.stopping = mark, batches, stopping
        self.rows: list[Row] = []
        self.found: dict[str, Any] = {}

    def restore(self, model: keras.Model) -> int:
        """Bring a compiled model to where it was; the number of epochs that it has had."""
        if self.folder is None or not (state := self._read()):
            return 0
        model.optimizer.build(model.trainable_variables)
        model.load_weights(self.folder / "model.weights.h5")
        states = _random_states(model)
        for variable, value in zip(states, _load(self.folder / "random.npz"), strict=True):
            variable.assign(value)
        self.rows, self.found = state["rows"], state["stopping"]
        self.batches.go_on_after(len(self.rows))
        print(f"goes on after epoch {len(self.rows)}, which was kept in {self.folder}")
        return len(self.rows)

    @property
    def stopped(self) -> bool:
        """Whether early stopping had ended the training that is restored."""
        return bool(self.found) and self.found["wait"] >= self.found["patience"]

    def _read(self) -> dict[str, Any]:
        if self.folder is None or not (file := self.folder / "state.json").exists():
            return {}
        state: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        if state["mark"] != self.mark:
            print(f"{self.folder} is of other data, code or parameters: begins anew")
            return {}
        return state

    def on_train_begin(self, logs: Row | None = None) -> None:
        """Set early stopping, which Keras has just reset; it stands before this callback."""
        if self.folder is None or self.stopping is None or not self.found:
            return
        for name, value in self.found.items():
            setattr(self.stopping, name, value)
        self.stopping.best_weights = _load(self.folder / "best.npz")

    def on_epoch_end(self, epoch: int, logs: Row | None = None) -> None:
        self.rows.append({name: float(value) for name, value in (logs or {}).items()})
        if self.folder is not None and np.isfinite(list(self.rows[-1].values())).all():
            with replacing(self.folder) as part:
                part.mkdir()
                self._write(part)

    def _write(self, folder: Path) -> None:
        self.model.save_weights(folder / "model.weights.h5")  # and the optimizer's
        np.savez(folder / "random.npz", *map(np.asarray, _random_states(self.model)))
        stopping: dict[str, Any] = {}
        if self.stopping is not None:
            stopping = {
                name: getattr(self.stopping, name) for name in ("wait", "patience", "best_epoch")
            }
            stopping["best"] = None if self.stopping.best is None else float(self.stopping.best)
            np.savez(folder / "best.npz", *(self.stopping.best_weights or []))
        state = {"mark": self.mark, "rows": self.rows, "stopping": stopping}
        (folder / "state.json").write_text(json.dumps(state), encoding="utf-8")


def _random_states(model: keras.Model) -> list[Any]:
    """Of dropout and augmentation; variables of the model, but none of its weights."""
    weights = {id(weight) for weight in model.weights}
    return [variable for variable in model.variables if id(variable) not in weights]


def _load(file: Path) -> list[NDArray[Any]]:
    with np.load(file) as arrays:
        return [arrays[name] for name in arrays.files]


def mark_of(stage: str) -> str:
    """Hash over everything that a stage of dvc.yaml depends on, and over the parameters."""
    digest = hashlib.sha256(paths.PARAMS.read_bytes())
    pipeline = YAML(typ="safe").load(Path("dvc.yaml").read_text(encoding="utf-8"))
    for dep in pipeline["stages"][stage]["deps"]:
        for file in _files(Path(dep)):
            with file.open("rb") as content:
                digest.update(hashlib.file_digest(content, "sha256").digest())
    return digest.hexdigest()


def _files(path: Path) -> list[Path]:
    found = sorted(path.rglob("*")) if path.is_dir() else [path]
    return [file for file in found if file.is_file()]
