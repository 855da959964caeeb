"""Record every path that Python code writes, creates, moves or removes (tests/support/writes.py).

Each Python process with this folder in PYTHONPATH imports it at start.
"""

import os
import sys

LOG = os.environ["WRITES_LOG"]
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
PATHS = {  # audit event -> indices of its arguments that are paths
    **{"open": [0], "os.mkdir": [0], "os.remove": [0], "os.rmdir": [0], "os.truncate": [0]},
    **{"os.rename": [0, 1], "os.link": [1], "os.symlink": [1]},
    **{"shutil.rmtree": [0], "sqlite3.connect": [0]},
}


def record(event, arguments):
    if event == "open" and not arguments[2] & WRITING:
        return
    for index in PATHS.get(event, ()):
        path = arguments[index]
        if not isinstance(path, int) and path != LOG:
            log = os.open(LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.write(log, os.fsencode(os.path.abspath(path)) + b"\n")
            os.close(log)


sys.addaudithook(record)
