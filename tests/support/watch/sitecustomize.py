"""Notes every path that Python code opens to write, makes, moves or removes (tests/writes.py).

Each Python that has this folder in PYTHONPATH imports it when it starts.
"""

import os
import sys

LOG = os.environ["WRITES_LOG"]
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
PATHS = {  # where they stand in the arguments of Python's audit events
    **{"open": [0], "os.mkdir": [0], "os.remove": [0], "os.rmdir": [0], "os.truncate": [0]},
    **{"os.rename": [0, 1], "os.link": [1], "os.symlink": [1]},
    **{"shutil.rmtree": [0], "sqlite3.connect": [0]},
}


def note(event, arguments):
    if event == "open" and not arguments[2] & WRITING:
        return
    for place in PATHS.get(event, ()):
        path = arguments[place]
        if not isinstance(path, int) and path != LOG:
            log = os.open(LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.write(log, os.fsencode(os.path.abspath(path)) + b"\n")
            os.close(log)


sys.addaudithook(note)
