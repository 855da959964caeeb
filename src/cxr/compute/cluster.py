"""Work on the workers of a Dask cluster (`preprocess.dask_scheduler`): images and frozen layers.

docs/scaling.md has the commands that start one.
"""

import hashlib
import importlib.util
import pickle
import shutil
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import cxr
from cxr.errors import CxrError

Item = TypeVar("Item")
Result = TypeVar("Result")

TIMEOUT = 30  # seconds for the scheduler and its first worker to answer
AHEAD = 3  # tasks submitted for each thread of the cluster: none is idle, and memory stays flat
PACKAGE = Path(cxr.__file__).parent
UPLOAD = "cxr-run"  # folder of a worker with the package, the file, and the hash of both
HASH = "sha256.txt"
# Their versions, and Python's, decide the bytes of a result.
LIBRARIES = ("keras", "numpy", "opencv-python-headless", "openvino", "pillow", "tensorflow")


def over(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    scheduler: str,
    file: Path | None = None,
) -> Iterator[Result]:
    """Results of a function for each item, in order; an item whose worker dies goes to another.

    Workers that have other code start again with that of this run. One run at a time uses the
    cluster: a second one prints that it waits.

    Args:
        function: of the package or a `partial` of one; what it raises is raised here, an OSError
            as a CxrError that names the worker.
        items: built-in types and arrays; paths have to be those of the workers, too.
        scheduler: address, as tcp://10.0.0.1:8786.
        file: is sent to each worker, which finds it as `brought(name)`.

    Raises:
        CxrError: no scheduler or worker answers, all workers are lost, one has no nanny, has other
            libraries or cannot read a file, or another run took the cluster, as this one did not
            answer for too long.
    """
    with _connected(scheduler) as client, _locked(client, scheduler):
        _check_workers(client)
        task = _task(function, _upload(client, file))
        most = AHEAD * max(1, sum(client.nthreads().values()))
        waiting: deque[Any] = deque()
        for item in items:
            waiting.append(client.submit(task, item, pure=False))
            if len(waiting) >= most:
                yield _result(client, waiting.popleft(), scheduler)
        while waiting:
            yield _result(client, waiting.popleft(), scheduler)


@contextmanager
def _connected(scheduler: str) -> Iterator[Any]:
    """A client of a scheduler that has a worker."""
    try:
        import distributed  # an extra: cluster
    except ImportError as error:
        raise CxrError(
            "preprocess.dask_scheduler needs the package distributed: pip install distributed"
        ) from error
    try:
        client = distributed.Client(scheduler, timeout=TIMEOUT, set_as_default=False)
    except (OSError, ValueError) as error:
        raise CxrError(
            f"preprocess.dask_scheduler {scheduler}: no scheduler answers there ({error}); start "
            "one with `dask scheduler`, or leave the key empty to use this machine"
        ) from error
    with client:
        try:
            client.wait_for_workers(1, timeout=TIMEOUT)
        except TimeoutError as error:
            raise _no_worker(scheduler) from error
        try:
            yield client
        except (OSError, distributed.client.FutureCancelledError) as error:
            raise CxrError(f"preprocess.dask_scheduler {scheduler} failed: {error}") from error


def _no_worker(scheduler: str) -> CxrError:
    return CxrError(
        f"preprocess.dask_scheduler {scheduler} has no worker (left); start some with "
        f"`dask worker {scheduler}`, then run the same command again"
    )


@contextmanager
def _locked(client: Any, scheduler: str) -> Iterator[None]:
    """Wait for the end of another run: workers have the code of one run at a time.

    Dask frees the lock of a client that did not answer for `lease-timeout`, 30 seconds.
    """
    import distributed

    lock = distributed.Lock("cxr", scheduler_rpc=client.scheduler, loop=client.loop)
    if not lock.acquire(blocking=False):
        print(f"the cluster {scheduler} is locked by another run: waiting", file=sys.stderr)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _check_workers(client: Any) -> None:
    """Refuse workers that cannot receive code, or that have other libraries."""
    for address, worker in client.scheduler_info()["workers"].items():
        if not worker["nanny"]:
            raise CxrError(
                f"the worker {address} cannot receive the code of this run: start it without "
                "--no-nanny"
            )
    for address, found in client.get_versions(packages=LIBRARIES)["workers"].items():
        _check_libraries(address, _versions(), found["packages"])


def _check_libraries(address: str, wanted: dict[str, str], found: dict[str, str]) -> None:
    other = [
        f"{name} {found[name]}, not {own}" for name, own in wanted.items() if found[name] != own
    ]
    if other:
        raise CxrError(
            f"the worker {address} has {', '.join(other)}: install the same Python and the same "
            "lock of requirements/ everywhere"
        )


@cache
def _versions() -> dict[str, str]:
    from distributed.versions import get_versions

    found = get_versions(LIBRARIES)["packages"]
    return {name: found[name] for name in ("python", *LIBRARIES)}


def _upload(client: Any, file: Path | None) -> str:
    """Send this package and a file to all workers, also to later ones; returns their hash.

    Workers that have them already keep running: each call of `over` would else start them again.
    """
    from distributed.diagnostics.plugin import UploadDirectory

    with TemporaryDirectory() as temporary:
        folder = Path(temporary, UPLOAD)
        shutil.copytree(PACKAGE, folder / "cxr", ignore=shutil.ignore_patterns("__pycache__"))
        if file:
            shutil.copy(file, folder)
        digest = hashlib.sha256()
        for path in sorted(filter(Path.is_file, folder.rglob("*"))):
            digest.update(f"{path.relative_to(folder)} ".encode() + path.read_bytes())
        (folder / HASH).write_text(digest.hexdigest(), encoding="utf-8")
        if set(client.run(_hash_reader()).values()) != {digest.hexdigest()}:
            # By default it skips everything below a folder named tests or docs.
            client.register_plugin(
                UploadDirectory(folder, restart_workers=True, update_path=True, skip_words=())
            )
    return digest.hexdigest()


def _hash_reader() -> Callable[[], str]:
    """Reads the hash of the code that a worker has; empty where `_upload` did not send it.

    Dask pickles a local function by value, so that it runs where there is other code or none.
    """

    def read() -> str:
        package = importlib.util.find_spec("cxr")
        file = Path(str(package.origin)).parents[1] / HASH if package else Path(HASH)
        return file.read_text(encoding="utf-8") if file.exists() else ""

    return read


def _task(function: Callable[[Item], Result], code: str) -> Callable[[Item], Result]:
    """What is done with an item; local, too: the scheduler unpickles it without this package."""
    content = pickle.dumps(partial(_on_worker, pickle.dumps(function), _versions()))
    read_hash = _hash_reader()

    def task(item: Item) -> Result:
        if read_hash() != code:
            raise ConnectionAbortedError(
                "a worker does not have the code of this run: it was started with --no-nanny, or "
                "another run took the cluster; run the same command again"
            )
        result: Result = pickle.loads(content)(item)
        return result

    return task


def _on_worker(function: bytes, wanted: dict[str, str], item: Any) -> Any:
    """The result of a function, whose modules are imported only beside the right libraries."""
    import distributed

    address = distributed.get_worker().address
    _check_libraries(address, wanted, _versions())  # of a worker that joined late
    try:
        return pickle.loads(function)(item)
    except OSError as error:  # which would be taken for one of the connection to the scheduler
        raise CxrError(f"the worker {address}: {error}") from error


def _result(client: Any, future: Any, scheduler: str) -> Any:
    """The result of a task, waited for as long as there are workers."""
    import distributed

    while True:
        try:
            return future.result(timeout=TIMEOUT)
        except TimeoutError:
            if not client.nthreads():
                raise _no_worker(scheduler) from None
        except distributed.KilledWorker as error:
            raise CxrError(f"several workers died of the same images: {error}") from error


def brought(name: str) -> Path:
    """Where a worker has the file that `over` sent: beside the package."""
    return PACKAGE.parent / name
