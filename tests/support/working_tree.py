"""Files of the working tree, committed or not."""

import shutil
import subprocess
from pathlib import Path

from cxr.tools.project_copy import PROJECT


def files() -> list[str]:
    """Files that git tracks or would add."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.check_output(listed, cwd=PROJECT, text=True).split("\0")
    return sorted({name for name in names if (PROJECT / name).is_file()})


def copy_missing(folder: Path) -> None:
    """Copy the files that a folder lacks."""
    for name in files():
        if not (folder / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(PROJECT / name, folder / name)
