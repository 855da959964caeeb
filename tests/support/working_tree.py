"""The project's own files as they are now, committed or not."""

import shutil
import subprocess
from pathlib import Path

from cxr.tools.project_copy import PROJECT


def files() -> list[str]:
    """Those that git has or would add."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.check_output(listed, cwd=PROJECT, text=True).split("\0")
    return sorted({name for name in names if (PROJECT / name).is_file()})


def copy_missing(folder: Path) -> None:
    """Copy those that a folder does not have yet."""
    for name in files():
        if not (folder / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(PROJECT / name, folder / name)
