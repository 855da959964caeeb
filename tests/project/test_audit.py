"""`make audit` fails on vulnerabilities, not without the service; and the lock files."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from cxr.tools.project_copy import PROJECT


def audit(folder: Path, script: str, code: int = 0) -> tuple[int, str]:
    """Exit code and output of `make audit`; pip-audit runs `script` and exits with `code`."""
    shutil.copy(PROJECT / "Makefile", folder)
    programs = folder / ".venv/bin"
    programs.mkdir(parents=True)
    (programs / "pip-audit").write_text(f"#!/bin/sh\n{script}\nexit {code}\n")
    (programs / "pip-audit").chmod(0o755)
    (folder / "requirements").mkdir()
    for name in ("uv", "runtime", "development"):
        (folder / f"requirements/{name}.lock").touch()
    for name in ("runtime", "runtime-development"):
        (folder / f".venv/{name}-installed").touch()
    done = subprocess.run(
        ["make", "--silent", "audit"],
        cwd=folder,
        env={name: value for name, value in os.environ.items() if name != "GPU"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return done.returncode, done.stdout


CLEAN = "No known vulnerabilities found, 1 ignored"
FOUND = "Found 2 known vulnerabilities, ignored 1 in 1 package\nkeras 1.0 PYSEC-1 2.1"
UNKNOWN = "numpy Dependency not found on PyPI and could not be audited: numpy (2.0)"


def test_without_findings_there_is_no_output(tmp_path: Path) -> None:
    assert audit(tmp_path, f"echo '{CLEAN}' >&2") == (0, "")


@pytest.mark.parametrize(
    "message",
    [
        FOUND,
        FOUND.replace("2 known vulnerabilities", "1 known vulnerability"),
        f"{FOUND}\n{UNKNOWN}",  # an unknown package hides no other
        "ERROR:pip_audit._cli:a does not contain a hash",
        "sh: 1: pip-audit: not found",
    ],
)
def test_vulnerabilities_and_other_failures_fail(tmp_path: Path, message: str) -> None:
    code, output = audit(tmp_path, f"echo '{message}'", code=1)
    assert code != 0
    assert output.startswith(message)


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ("Traceback\nrequests.exceptions.ProxyError: HTTPSConnectionPool(host=x)", 1),
        ("Traceback\nrequests.exceptions.ConnectionError: NameResolutionError", 1),
        ("Traceback\nrequests.exceptions.SSLError: certificate", 1),
        ("Traceback\nrequests.exceptions.ReadTimeout: Read timed out.", 1),
        ("ERROR:pip_audit._cli:Could not connect to the vulnerability feed", 1),
        (f"{CLEAN}\n{UNKNOWN}", 0),  # pip-audit succeeds although the index has no package
    ],
)
def test_without_the_service_one_line_is_printed(tmp_path: Path, message: str, code: int) -> None:
    found, output = audit(tmp_path, f"echo '{message}'", code)
    assert found == 0
    assert len(output.splitlines()) == 1
    assert output.startswith("audit: skipped")


def test_make_check_runs_the_audit() -> None:
    done = subprocess.run(
        ["make", "--dry-run", "check"], cwd=PROJECT, capture_output=True, text=True, check=True
    )
    assert "pip-audit" in done.stdout


def test_workflows_use_no_secrets() -> None:
    """They have only the token that GitHub creates for the run."""
    for file in (PROJECT / ".github").rglob("*.*"):
        assert "secrets." not in file.read_text(encoding="utf-8")


LOCKS = sorted((PROJECT / "requirements").glob("*.lock"))


def locked(lock: Path) -> dict[str, str]:
    """Packages of a lock file, with their markers, and their hashes."""
    entries = lock.read_text(encoding="utf-8").replace("\\\n", "").splitlines()
    return dict(re.split(r"\s+(?=--hash)", entry, maxsplit=1) for entry in entries)


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.stem)
def test_every_locked_package_has_a_version_and_a_hash(lock: Path) -> None:
    for package, hashes in locked(lock).items():
        assert re.match(r"[a-z0-9-]+==[0-9]", package)
        assert "--hash=sha256:" in hashes


def test_audit_reads_every_lock(tmp_path: Path) -> None:
    code, output = audit(tmp_path, 'echo "$@"', code=3)
    assert code != 0
    names = re.findall(r"--requirement=requirements/(\w+)\.lock", output)
    assert names == ["runtime", "gpu", "development"]
    assert {lock.stem for lock in LOCKS} == {*names, "uv"}
    assert "--require-hashes" in output


def test_locks_are_consistent() -> None:
    """Development extends runtime or gpu; only these have TensorFlow and its dependencies."""
    packages = {lock.stem: locked(lock).keys() for lock in LOCKS}
    only = {
        re.match("[a-z]+", package)[0] for package in packages["runtime"] - packages["development"]
    }
    assert only == {"tensorflow"}
    cuda = {package for package in packages["gpu"] if package.startswith("nvidia-")}
    assert {
        re.match("[a-z]+", package)[0]
        for package in packages["gpu"] - cuda - packages["development"]
    } == {"tensorflow"}
    assert packages["uv"] < packages["development"]
    names = {package.split("==")[0] for package in packages["runtime"]}
    assert not names & {"pytest", "onnx", "tf2onnx", "onnxruntime", "jax", "mypy"}
