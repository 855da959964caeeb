"""One script per stage of dvc.yaml: `python -m stages.<stage>` from the project root."""

import sys
from pathlib import Path

# The package next to this folder comes first: experiments in a temporary folder (`--temp`, queue)
# run their own code, not that of an installed package.
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from cxr import errors, quiet
from cxr.common import environment

errors.catch_every_interrupt()
quiet.install()
environment.prepare()
