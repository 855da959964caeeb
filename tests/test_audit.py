"""`.ci/audit.py`: vulnerabilities fail, a machine without the service does not."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cxr.demo import PROJECT

KNOWN = {"id": "CVE-2025-69872", "fix_versions": [], "aliases": ["GHSA-w8v5-vhqr-4h9v"]}
NEW = {"id": "PYSEC-1", "fix_versions": ["2.1", "3.0"], "aliases": ["CVE-1"]}


def package(name: str, *found: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "version": "1.0", "vulns": list(found)}


def skipped(name: str) -> dict[str, Any]:
    return {"name": name, "skip_reason": f"Dependency not found on PyPI: {name}"}


def audit(
    tmp_path: Path, packages: list[dict[str, Any]] | None, errors: str = "", code: int = 0
) -> tuple[int, list[str]]:
    """Exit code and lines of an audit for which pip-audit answers this; None: no report."""
    answer = "" if packages is None else json.dumps({"dependencies": packages, "fixes": []})
    program = tmp_path / "pip-audit"
    program.write_text(
        f"#!{sys.executable}\nimport sys\nassert '--require-hashes' in sys.argv\n"
        f"print({answer!r})\nsys.stderr.write({errors!r})\nsys.exit({code})\n"
    )
    program.chmod(0o755)
    return run(f"{tmp_path}{os.pathsep}{os.environ['PATH']}")


def run(path: str) -> tuple[int, list[str]]:
    done = subprocess.run(
        [sys.executable, ".ci/audit.py"],
        cwd=PROJECT,
        env=os.environ | {"PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == ""
    return done.returncode, done.stderr.splitlines()


def test_nothing_found_says_nothing(tmp_path: Path) -> None:
    assert audit(tmp_path, [package("numpy"), package("keras")]) == (0, [])


def test_every_vulnerability_fails_with_a_line(tmp_path: Path) -> None:
    other = NEW | {"id": "PYSEC-2", "fix_versions": []}
    code, lines = audit(
        tmp_path, [package("a", NEW, other), package("b"), package("c", NEW)], code=1
    )
    assert code == 1
    assert lines == [
        "audit: a 1.0 has PYSEC-1, mended in 2.1, 3.0",
        "audit: a 1.0 has PYSEC-2, mended in no version yet",
        "audit: c 1.0 has PYSEC-1, mended in 2.1, 3.0",
    ]


@pytest.mark.parametrize("alias", [False, True])
def test_accepted_ones_pass_by_any_of_their_names(tmp_path: Path, alias: bool) -> None:
    other_way = {"id": KNOWN["aliases"][0], "aliases": [KNOWN["id"]]}
    found = KNOWN | other_way if alias else KNOWN
    assert audit(tmp_path, [package("diskcache", found)], code=1) == (0, [])
    code, lines = audit(tmp_path, [package("diskcache", found, NEW)], code=1)
    assert (code, len(lines)) == (1, 1)


@pytest.mark.parametrize(
    "errors",
    [
        "Traceback\nrequests.exceptions.ProxyError: HTTPSConnectionPool(host='example.org')",
        "Traceback\nrequests.exceptions.ConnectionError: NameResolutionError",
        "Traceback\nrequests.exceptions.ReadTimeout: Read timed out.",
        "ERROR:pip_audit._cli:Could not connect to PyPI's vulnerability feed",
    ],
)
def test_without_network_one_line_says_so(tmp_path: Path, errors: str) -> None:
    code, lines = audit(tmp_path, None, errors, code=1)
    assert code == 0
    assert len(lines) == 1
    assert "nothing was checked" in lines[0]


def test_a_service_that_knows_no_package_is_no_clean_bill(tmp_path: Path) -> None:
    """pip-audit itself says `No known vulnerabilities found` and ends with 0."""
    code, lines = audit(tmp_path, [skipped("numpy"), skipped("keras")])
    assert code == 0
    assert lines == ["audit: 2 of 2 packages could not be checked (numpy, keras, ...)"]


def test_a_package_that_is_not_known_hides_no_other(tmp_path: Path) -> None:
    code, lines = audit(tmp_path, [skipped("numpy"), package("keras", NEW)], code=1)
    assert code == 1
    assert len(lines) == 2


def test_any_other_failure_fails(tmp_path: Path) -> None:
    code, lines = audit(tmp_path, None, "ERROR:pip_audit._cli:a does not contain a hash", code=1)
    assert code == 1
    assert lines == ["audit: ERROR:pip_audit._cli:a does not contain a hash"]


def test_a_missing_tool_fails(tmp_path: Path) -> None:
    code, lines = run(str(tmp_path))
    assert code == 1
    assert "pip-audit is missing" in lines[0]


def test_it_is_a_part_of_make_check() -> None:
    done = subprocess.run(
        ["make", "--dry-run", "check"], cwd=PROJECT, capture_output=True, text=True, check=True
    )
    assert "python .ci/audit.py" in done.stdout.splitlines()


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


def test_the_audit_reads_every_lock() -> None:
    text = (PROJECT / ".ci/audit.py").read_text(encoding="utf-8")
    assert re.findall(r"requirements/(\w+)\.lock", text) == ["runtime", "gpu", "development"]
    assert {lock.stem for lock in LOCKS} == {"runtime", "gpu", "development", "uv"}


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
