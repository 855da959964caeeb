"""The quick project after one `dvc repro`, which is built once and kept between test runs."""

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


def finished_project(kept: Path, folder: Path) -> Project:
    """A copy of the finished project.

    Args:
        kept: folder that outlives the test run; it holds the last project that was built, under a
            hash of all that its results depend on.
        folder: of the copy, which must not exist yet.
    """
    entry = kept / _key()
    with _locked(kept / "lock"):  # other test processes wait for the one that builds
        if not entry.exists():
            for old in kept.glob("*/"):
                shutil.rmtree(old)
            _build(kept / "part")
            (kept / "part").rename(entry)
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
    made = Project(folder / "project")
    log = made.outside / "writes"
    with watched(log):
        ran = made.repro()
    written = [*made.outside.glob("*/**/*"), *elsewhere(log, made.folder, made.outside / "tmp")]
    made.commit("results")
    record = {"ran": ran, "written_outside": [str(path) for path in written]}
    (folder / "record.json").write_text(json.dumps(record), encoding="utf-8")


def _key() -> str:
    """A hash of the code, the settings, the libraries and the machine."""
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
