"""Limit numerical libraries to one thread per process: pytest-xdist already uses every core.

Processes that tests start inherit the limit. Import this before the libraries that read it.
"""

import os

THREADS = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "TF_NUM_INTRAOP_THREADS": "1"}
os.environ.update(THREADS)
