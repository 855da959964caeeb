"""Speed beside the notebook's own way, both in one run: `make bench`, or `python -m benchmarks`."""

import stages  # noqa: F401  # puts the package into Python's path, as each stage does
