"""The one exception type for mistakes that the user can mend, and how a stage reports it."""

import sys
from collections.abc import Callable


class CxrError(RuntimeError):
    """A mistake in data, parameters or surroundings; the message says what to do about it."""


def run_stage(main: Callable[[], None]) -> None:
    """Run a stage; a mistake of the user ends it with one message instead of a traceback."""
    try:
        main()
    except CxrError as error:
        sys.exit(f"\nerror: {error}")
    except KeyboardInterrupt:
        sys.exit("\nerror: interrupted; nothing half-written was kept, run the same command again")
