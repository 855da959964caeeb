"""One module per stage of dvc.yaml; run as `python -m stages.<stage>` from the project root."""

import os
import sys
from pathlib import Path

# The package that stands beside these stages comes first: an experiment in the queue or in a
# temporary folder runs its own code, whatever is installed in the environment.
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

# TensorFlow's notes about the processor would hide what a stage has to say.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
