"""Save models so that equal weights give equal bytes."""

import json
import zipfile
from pathlib import Path
from typing import Any

import keras

from cxr.common.files import replacing


def save_model(model: keras.Model, path: Path) -> None:
    """Save a model so that equal weights give equal bytes.

    Keras writes the date and memory addresses into the file, for which DVC would take every
    training for a new result.
    """
    with replacing(path) as part:
        model.save(part)
        members = _members(part)
        metadata = json.loads(members["metadata.json"]) | {"date_saved": ""}
        members["metadata.json"] = json.dumps(metadata).encode()
        config = json.loads(members["config.json"])
        _number_shared_objects(config, {})
        members["config.json"] = json.dumps(config).encode()
        with zipfile.ZipFile(part, "w") as archive:
            for name, content in sorted(members.items()):
                archive.writestr(zipfile.ZipInfo(name), content)  # ZipInfo: always the same date


def _members(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def _number_shared_objects(config: Any, numbers: dict[int, int]) -> None:
    """Replace the address by which objects share a part with 1, 2, 3 ... in order of appearance."""
    if isinstance(config, dict):
        if (address := config.get("shared_object_id")) is not None:
            config["shared_object_id"] = numbers.setdefault(address, len(numbers) + 1)
        config = list(config.values())
    if isinstance(config, list):
        for item in config:
            _number_shared_objects(item, numbers)
