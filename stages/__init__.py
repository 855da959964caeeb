"""One module per stage of dvc.yaml; run as `python -m stages.<stage>` from the project root."""

import sys
from pathlib import Path

# The package next to these stages comes first: an experiment in the queue or in a temporary folder
# runs its own code, whatever is installed in the environment.
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from cxr import errors, quiet
from cxr.common import environment

errors.catch_every_interrupt()
quiet.install()
environment.prepare()
