"""Settings of libraries that change results or write outside the project; before they load."""

import os
from pathlib import Path


def prepare() -> None:
    """Set the environment variables that TensorFlow, Keras and Matplotlib read when they load."""
    # Else these libraries write to the user's home, and settings found there would change results.
    for variable, library in {"KERAS_HOME": "keras", "MPLCONFIGDIR": "matplotlib"}.items():
        os.environ.setdefault(variable, str(Path("data/libraries", library).resolve()))
    # TensorFlow leaves its oneDNN kernels off on processors without AVX-512. With AVX2 alone they
    # take 0.4x the time of a training step and 0.6x of the features, and repeat byte for byte.
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
