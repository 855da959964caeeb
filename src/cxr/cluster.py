"""Work on images by many machines, a Dask cluster (`preprocess.scheduler`), in the order given.

docs/scaling.md has the commands that start one.
"""

import shutil
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar

from cxr.errors import CxrError

Item = TypeVar("Item")
Result = TypeVar("Result")

FIND_WITHIN = 30  # seconds for the scheduler and its first worker to answer
AHEAD = 3  # tasks sent for each thread of the cluster: none waits, and memory stays flat
# Run on each worker, to which another run may have brought another version of this package.
FORGET = """
import importlib, sys, zipimport
for name in [name for name in sys.modules if name.split(".")[0] == "cxr"]:
    del sys.modules[name]
zipimport._zip_directory_cache.clear()
importlib.invalidate_caches()
"""
# What decides the bytes of a result has to be the same everywhere.
LIBRARIES = ("keras", "numpy", "opencv-python-headless", "openvino", "pillow", "tensorflow")


def over(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    scheduler: str,
    file: Path | None = None,
) -> Iterator[Result]:
    """Results of a function for each item, in order; an item whose worker dies goes to another.

    Args:
        function: of the package or a `partial` of one; what it raises is raised here.
        items: are sent to the workers; paths have to be theirs, too.
        scheduler: address, as tcp://10.0.0.1:8786.
        file: is brought to each worker, which finds it as `brought(name)`.

    Raises:
        CxrError: no scheduler or worker answers, all workers are lost, or theirs are other
            libraries.
    """
    with _connected(scheduler, file) as client:
        most = AHEAD * max(1, sum(client.nthreads().values()))
        waiting: deque[Any] = deque()
        for item in items:
            waiting.append(client.submit(function, item, pure=False))
            if len(waiting) >= most:
                yield _result(client, waiting.popleft(), scheduler)
        while waiting:
            yield _result(client, waiting.popleft(), scheduler)


@contextmanager
def _connected(scheduler: str, file: Path | None) -> Iterator[Any]:
    """A client whose workers have this package's code and the file."""
    try:
        import distributed  # an extra: cluster
    except ImportError as error:
        raise CxrError(
            "preprocess.scheduler needs the package distributed: pip install distributed"
        ) from error
    try:
        client = distributed.Client(scheduler, timeout=FIND_WITHIN, set_as_default=False)
    except (OSError, ValueError) as error:
        raise CxrError(
            f"preprocess.scheduler {scheduler}: no scheduler answers there ({error}); start one "
            "with `dask scheduler`, or leave the key empty to use this machine"
        ) from error
    with client, tempfile.TemporaryDirectory() as folder:
        try:
            client.wait_for_workers(1, timeout=FIND_WITHIN)
        except TimeoutError as error:
            raise _no_worker(scheduler) from error
        client.run(exec, FORGET)
        package = Path(__file__).parent
        code = shutil.make_archive(f"{folder}/{package.name}", "zip", package.parent, package.name)
        for path in filter(None, (code, file)):
            client.upload_file(str(path))
        _compare_libraries(client)
        yield client


def _no_worker(scheduler: str) -> CxrError:
    return CxrError(
        f"preprocess.scheduler {scheduler} has no worker (left); start some with "
        f"`dask worker {scheduler}`, then run the same command again"
    )


def _compare_libraries(client: Any) -> None:
    here = _versions()
    for worker, there in client.run(_versions).items():
        other = [
            f"{name} {there[name]}, not {here[name]}" for name in here if there[name] != here[name]
        ]
        if other:
            raise CxrError(
                f"the worker {worker} has {', '.join(other)}: install the same "
                "requirements.lock everywhere"
            )


def _versions() -> dict[str, str]:
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "none"
    return found


def _result(client: Any, future: Any, scheduler: str) -> Any:
    """The result of a task, waited for as long as there are workers."""
    import distributed

    while True:
        try:
            return future.result(timeout=FIND_WITHIN)
        except TimeoutError:
            if not client.nthreads():
                raise _no_worker(scheduler) from None
        except distributed.KilledWorker as error:
            raise CxrError(f"several workers died of the same images: {error}") from error
        except (OSError, distributed.client.FutureCancelledError) as error:
            raise CxrError(f"preprocess.scheduler {scheduler} is gone: {error}") from error


def brought(name: str) -> Path:
    """Where a worker has the file that `over` brought."""
    import distributed

    return Path(distributed.get_worker().local_directory) / name
