"""Deterministic model files."""

import json
import zipfile
from pathlib import Path
from typing import Any

import keras

from cxr.common.files import replacing


def save_model(model: keras.Model, path: Path) -> None:
    """Save a model to a .keras file; equal models give equal bytes.

    Keras stores the date and memory addresses, which would make every file a new result for DVC.
    """
    with replacing(path) as temporary:
        model.save(temporary)
        members = _members(temporary)
        metadata = json.loads(members["metadata.json"]) | {"date_saved": ""}
        members["metadata.json"] = json.dumps(metadata).encode()
        config = json.loads(members["config.json"])
        _number_shared_objects(config, {})
        members["config.json"] = json.dumps(config).encode()
        with zipfile.ZipFile(temporary, "w") as archive:
            for name, content in sorted(members.items()):
                archive.writestr(zipfile.ZipInfo(name), content)  # ZipInfo has a fixed date


def _members(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def _number_shared_objects(config: Any, numbers: dict[int, int]) -> None:
    """Replace memory addresses, the IDs of shared objects, by 1, 2, ... in order of appearance."""
    if isinstance(config, dict):
        if (address := config.get("shared_object_id")) is not None:
            config["shared_object_id"] = numbers.setdefault(address, len(numbers) + 1)
        config = list(config.values())
    if isinstance(config, list):
        for item in config:
            _number_shared_objects(item, numbers)
