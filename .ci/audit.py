"""Look the locked dependencies up among known vulnerabilities: a part of `make check`.

A found one fails. Where the service cannot be asked, or knows none of the packages (as a mirror of
the package index), one line says that nothing was checked, and the work can go on.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

# By any of its names, with the reason. Take out what is mended.
ACCEPTED = {
    "CVE-2025-69872": "diskcache, of DVC, unpickles its own files; `make` keeps them in the project"
}
LOCKS = ("requirements/runtime.lock", "requirements/gpu.lock", "requirements/development.lock")
COMMAND = (
    *("pip-audit", *(f"--requirement={lock}" for lock in LOCKS), "--require-hashes"),
    "--disable-pip",
    *("--format=json", "--progress-spinner=off", f"--cache-dir={Path(sys.prefix) / 'pip-audit'}"),
)
UNREACHABLE = ("ConnectionError", "ProxyError", "SSLError", "Timeout", "Could not connect")


def main() -> None:
    try:
        done = subprocess.run(COMMAND, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        sys.exit("audit: pip-audit is missing; `make` with a new .venv installs it")
    if not done.stdout.startswith("{"):
        reason = (done.stderr.strip() or "no answer").splitlines()[-1]
        if not any(sign in done.stderr for sign in UNREACHABLE):
            sys.exit(f"audit: {reason}")
        notice(f"the service is out of reach, nothing was checked ({reason[:100]})")
        return
    packages = json.loads(done.stdout)["dependencies"]
    unknown = [package["name"] for package in packages if "skip_reason" in package]
    if unknown:
        few = ", ".join(unknown[:3])
        notice(f"{len(unknown)} of {len(packages)} packages could not be checked ({few}, ...)")
    found = [line for package in packages for line in vulnerabilities(package)]
    sys.exit("\n".join(found) or None)


def notice(text: str) -> None:
    print(f"audit: {text}", file=sys.stderr)


def vulnerabilities(package: dict[str, Any]) -> list[str]:
    """One line for each of a package's vulnerabilities that is not accepted."""
    return [
        f"audit: {package['name']} {package['version']} has {found['id']}, "
        f"mended in {', '.join(found['fix_versions']) or 'no version yet'}"
        for found in package.get("vulns", [])
        if not ACCEPTED.keys() & {found["id"], *found["aliases"]}
    ]


if __name__ == "__main__":
    main()
