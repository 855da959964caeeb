"""One thread for the arithmetic of each process: pytest-xdist keeps every core busy already.

The processes that tests start inherit it. To be imported before the libraries that read it.
"""

import os

THREADS = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "TF_NUM_INTRAOP_THREADS": "1"}
os.environ.update(THREADS)
