"""The project after one `dvc repro`, built once and cached between test runs."""

import fcntl
import hashlib
import json
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import distributions
from pathlib import Path
from tempfile import TemporaryDirectory

from cxr.tools import project_copy
from tests.support import project
from tests.support.project import QUICK, Project
from tests.support.threads import THREADS
from tests.support.writes import WATCH, elsewhere, watched

BUILDERS = (Path(__file__), Path(project.__file__), WATCH.with_name("writes.py"))


def finished_project(cache: Path, folder: Path) -> Project:
    """Copy the finished project; build it if its inputs changed.

    Args:
        cache: folder that persists between test runs; it has the last project that was built, by
            the hash of its inputs.
        folder: of the copy, which must not exist.
    """
    entry = cache / _key()
    with _locked(cache / "lock"):  # other test processes wait until it is built
        if not entry.exists():
            for outdated in cache.glob("*/"):
                shutil.rmtree(outdated)
            _build(cache / "part")
            (cache / "part").rename(entry)
        shutil.copytree(entry / "project", folder, symlinks=True)
    copy = Project.at(folder)
    record = json.loads((entry / "record.json").read_text(encoding="utf-8"))
    copy.ran_at_first = record["ran"]
    copy.written_outside = [Path(path) for path in record["written_outside"]]
    return copy


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _build(folder: Path) -> None:
    folder.mkdir()
    built = Project(folder / "project")
    log = built.outside / "writes"
    with watched(log):
        ran = built.repro()
    written = [
        *built.outside.glob("*/**/*"),
        *elsewhere(log, built.folder, built.outside / "tmp"),
    ]
    built.commit("results")
    record = {"ran": ran, "written_outside": [str(path) for path in written]}
    (folder / "record.json").write_text(json.dumps(record), encoding="utf-8")


def _key() -> str:
    """SHA-256 over code, parameters, libraries and machine."""
    digest = hashlib.sha256()
    with TemporaryDirectory() as folder:
        project_copy.copy_project(Path(folder))
        for file in sorted(path for path in Path(folder).rglob("*") if path.is_file()):
            digest.update(f"{file.relative_to(folder)}\0".encode() + file.read_bytes())
    ignored = (project_copy.PROJECT / ".gitignore", project_copy.PROJECT / ".dvc/.gitignore")
    for file in (*ignored, *BUILDERS, *sorted(WATCH.glob("*.py"))):
        digest.update(file.read_bytes())
    libraries = sorted(f"{found.name}=={found.version}" for found in distributions())
    machine = [sys.version, platform.uname(), os.environ.get("KERAS_BACKEND")]
    digest.update(json.dumps([QUICK, libraries, machine, THREADS]).encode())
    return digest.hexdigest()
