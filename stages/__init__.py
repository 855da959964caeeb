"""One module per stage of dvc.yaml; run as `python -m stages.<stage>` from the project root."""

import os
import sys
from pathlib import Path

# The package that stands beside these stages comes first: an experiment in the queue or in a
# temporary folder runs its own code, whatever is installed in the environment.
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from cxr import errors, quiet

errors.catch_every_interrupt()
quiet.install()

# Else these libraries write to the user's home, and settings found there would change results.
for variable, library in {"KERAS_HOME": "keras", "MPLCONFIGDIR": "matplotlib"}.items():
    os.environ.setdefault(variable, str(Path("data/libraries", library).resolve()))

# TensorFlow leaves its oneDNN kernels off on processors without AVX-512. With AVX2 alone they take
# 0.4x the time of a training step and 0.6x of the features, and repeat byte for byte as well.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
