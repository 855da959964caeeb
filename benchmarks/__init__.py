"""Speed compared with the notebook, measured in the same run: `make bench`."""

import stages  # noqa: F401  # puts the package into Python's path, as each stage does
