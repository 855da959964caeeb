"""`make audit`: vulnerabilities fail, a machine without the service does not; and the locks."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from cxr.tools.project_copy import PROJECT


def audit(folder: Path, answer: str, code: int = 0) -> tuple[int, str]:
    """Exit code and output of `make audit` where pip-audit does this and ends with this code."""
    shutil.copy(PROJECT / "Makefile", folder)
    programs = folder / ".venv/bin"
    programs.mkdir(parents=True)
    (programs / "pip-audit").write_text(f"#!/bin/sh\n{answer}\nexit {code}\n")
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
NOT_KNOWN = "numpy Dependency not found on PyPI and could not be audited: numpy (2.0)"


def test_nothing_found_says_nothing(tmp_path: Path) -> None:
    assert audit(tmp_path, f"echo '{CLEAN}' >&2") == (0, "")


@pytest.mark.parametrize(
    "said",
    [
        FOUND,
        FOUND.replace("2 known vulnerabilities", "1 known vulnerability"),
        f"{FOUND}\n{NOT_KNOWN}",  # a package that is not known hides no other
        "ERROR:pip_audit._cli:a does not contain a hash",
        "sh: 1: pip-audit: not found",
    ],
)
def test_vulnerabilities_and_other_failures_fail(tmp_path: Path, said: str) -> None:
    code, output = audit(tmp_path, f"echo '{said}'", code=1)
    assert code != 0
    assert output.startswith(said)


@pytest.mark.parametrize(
    ("said", "code"),
    [
        ("Traceback\nrequests.exceptions.ProxyError: HTTPSConnectionPool(host=x)", 1),
        ("Traceback\nrequests.exceptions.ConnectionError: NameResolutionError", 1),
        ("Traceback\nrequests.exceptions.SSLError: certificate", 1),
        ("Traceback\nrequests.exceptions.ReadTimeout: Read timed out.", 1),
        ("ERROR:pip_audit._cli:Could not connect to the vulnerability feed", 1),
        (f"{CLEAN}\n{NOT_KNOWN}", 0),  # pip-audit itself is content with an index that knows none
    ],
)
def test_without_a_service_one_line_says_so(tmp_path: Path, said: str, code: int) -> None:
    found, output = audit(tmp_path, f"echo '{said}'", code)
    assert found == 0
    assert len(output.splitlines()) == 1
    assert output.startswith("audit: skipped")


def test_it_is_a_part_of_make_check() -> None:
    done = subprocess.run(
        ["make", "--dry-run", "check"], cwd=PROJECT, capture_output=True, text=True, check=True
    )
    assert "pip-audit" in done.stdout


def test_workflows_use_no_secrets() -> None:
    """They have GitHub's own token of the run and no other."""
    for file in (PROJECT / ".github").rglob("*.*"):
        assert "secrets." not in file.read_text(encoding="utf-8")


LOCKS = sorted((PROJECT / "requirements").glob("*.lock"))


def locked(lock: Path) -> dict[str, str]:
    """A lock's packages, each with its marker, and their hashes."""
    entries = lock.read_text(encoding="utf-8").replace("\\\n", "").splitlines()
    return dict(re.split(r"\s+(?=--hash)", entry, maxsplit=1) for entry in entries)


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.stem)
def test_every_locked_package_has_a_version_and_a_hash(lock: Path) -> None:
    for package, hashes in locked(lock).items():
        assert re.match(r"[a-z0-9-]+==[0-9]", package)
        assert "--hash=sha256:" in hashes


def test_the_audit_reads_every_lock(tmp_path: Path) -> None:
    code, said = audit(tmp_path, 'echo "$@"', code=3)
    assert code != 0
    found = re.findall(r"--requirement=requirements/(\w+)\.lock", said)
    assert found == ["runtime", "gpu", "development"]
    assert {lock.stem for lock in LOCKS} == {*found, "uv"}
    assert "--require-hashes" in said


def test_the_sets_fit_together() -> None:
    """Development adds to either of the others; only these have TensorFlow and its packages."""
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
    both = {package.split("==")[0] for package in packages["runtime"]}
    assert not both & {"pytest", "onnx", "tf2onnx", "onnxruntime", "jax", "mypy"}
