"""Tasks on the workers of a Dask cluster (`preprocess.dask_scheduler`); see docs/scaling.md."""

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

TIMEOUT = 30  # seconds until the scheduler and a worker have to respond
TASKS_PER_THREAD = 3  # submitted at a time: no thread is idle, and memory stays constant
PACKAGE = Path(cxr.__file__).parent
UPLOAD = "cxr-run"  # folder on a worker: the package, the file, and the hash of both
HASH = "sha256.txt"
# The bytes of results depend on their versions, and on that of Python.
LIBRARIES = ("keras", "numpy", "opencv-python-headless", "openvino", "pillow", "tensorflow")


def imap(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    dask_scheduler: str,
    file: Path | None = None,
) -> Iterator[Result]:
    """Map a function over items on the cluster, lazily; yield the results in order.

    Tasks of a worker that dies are repeated on another. Workers with different code are restarted
    with that of this run. Only one run at a time uses the cluster: others wait and report it.

    Args:
        function: of this package, or a `partial` of one. Its exceptions are raised here, an OSError
            as a CxrError that names the worker.
        items: built-in types and arrays; paths have to exist on the workers.
        dask_scheduler: address, such as tcp://10.0.0.1:8786.
        file: uploaded to each worker, to `uploaded_path(file.name)`.

    Raises:
        CxrError: no scheduler or worker responds, all workers are lost, one has no nanny, has
            different library versions or cannot read a file, or another run took the cluster
            because this one did not respond in time.
    """
    with _connected(dask_scheduler) as client, _locked(client, dask_scheduler):
        _check_workers(client)
        task = _task(function, _upload(client, file))
        max_pending = TASKS_PER_THREAD * max(1, sum(client.nthreads().values()))
        pending: deque[Any] = deque()
        for item in items:
            pending.append(client.submit(task, item, pure=False))
            if len(pending) >= max_pending:
                yield _result(client, pending.popleft(), dask_scheduler)
        while pending:
            yield _result(client, pending.popleft(), dask_scheduler)


@contextmanager
def _connected(dask_scheduler: str) -> Iterator[Any]:
    """Connect to a scheduler with at least one worker; yield the `distributed.Client`."""
    try:
        import distributed  # of the extra `cluster`
    except ImportError as error:
        raise CxrError(
            "preprocess.dask_scheduler needs the package distributed: pip install distributed"
        ) from error
    try:
        client = distributed.Client(dask_scheduler, timeout=TIMEOUT, set_as_default=False)
    except (OSError, ValueError) as error:
        raise CxrError(
            f"preprocess.dask_scheduler {dask_scheduler}: no scheduler responds ({error}); start "
            "one with `dask scheduler`, or leave the key empty to use this machine"
        ) from error
    with client:
        try:
            client.wait_for_workers(1, timeout=TIMEOUT)
        except TimeoutError as error:
            raise _no_worker(dask_scheduler) from error
        try:
            yield client
        except (OSError, distributed.client.FutureCancelledError) as error:
            raise CxrError(f"preprocess.dask_scheduler {dask_scheduler} failed: {error}") from error


def _no_worker(dask_scheduler: str) -> CxrError:
    return CxrError(
        f"preprocess.dask_scheduler {dask_scheduler} has no worker (left); start some with "
        f"`dask worker {dask_scheduler}`, then run the same command again"
    )


@contextmanager
def _locked(client: Any, dask_scheduler: str) -> Iterator[None]:
    """Hold the cluster's lock; wait for other runs, as workers have the code of one run at a time.

    Dask releases the lock of a client that does not respond for `lease-timeout`, 30 seconds.
    """
    import distributed

    lock = distributed.Lock("cxr", scheduler_rpc=client.scheduler, loop=client.loop)
    if not lock.acquire(blocking=False):
        print(f"cluster {dask_scheduler} is locked by another run: waiting", file=sys.stderr)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _check_workers(client: Any) -> None:
    """Raise a CxrError if a worker cannot receive code or has different library versions."""
    for address, worker in client.scheduler_info()["workers"].items():
        if not worker["nanny"]:
            raise CxrError(
                f"worker {address} cannot receive the code of this run: start it without --no-nanny"
            )
    for address, versions in client.get_versions(packages=LIBRARIES)["workers"].items():
        _check_libraries(address, _versions(), versions["packages"])


def _check_libraries(address: str, expected: dict[str, str], actual: dict[str, str]) -> None:
    different = [
        f"{name} {actual[name]}, not {version}"
        for name, version in expected.items()
        if actual[name] != version
    ]
    if different:
        raise CxrError(
            f"worker {address} has {', '.join(different)}: install the same Python and the same "
            "lock of requirements/ everywhere"
        )


@cache
def _versions() -> dict[str, str]:
    from distributed.versions import get_versions

    versions = get_versions(LIBRARIES)["packages"]
    return {name: versions[name] for name in ("python", *LIBRARIES)}


def _upload(client: Any, file: Path | None) -> str:
    """Upload this package and a file to all current and later workers; return their SHA-256.

    Workers that have them already are not restarted.
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
            # By default it skips everything in folders named tests or docs.
            _register(
                client,
                UploadDirectory(folder, restart_workers=True, update_path=True, skip_words=()),
            )
    return digest.hexdigest()


def _register(client: Any, plugin: Any) -> None:
    """Register a plugin, up to three times: workers of one host may unpack into one folder at the
    same time, where one of them may find that another has just created what it is about to.
    """
    for is_last in (False, False, True):
        try:
            client.register_plugin(plugin)
            return
        except FileExistsError:
            if is_last:
                raise


def _hash_reader() -> Callable[[], str]:
    """A function that returns the hash of a worker's code, or "" if `_upload` did not send it.

    Dask pickles local functions by value, so it runs on workers with different code or none.
    """

    def read() -> str:
        package = importlib.util.find_spec("cxr")
        file = Path(str(package.origin)).parents[1] / HASH if package else Path(HASH)
        return file.read_text(encoding="utf-8") if file.exists() else ""

    return read


def _task(function: Callable[[Item], Result], code: str) -> Callable[[Item], Result]:
    """The task for one item; local too, as the scheduler unpickles it without this package."""
    content = pickle.dumps(partial(_on_worker, pickle.dumps(function), _versions()))
    read_hash = _hash_reader()

    def task(item: Any) -> Any:  # type variables would be pickled as names in this module
        if read_hash() != code:
            raise ConnectionAbortedError(
                "a worker does not have the code of this run: it was started with --no-nanny, or "
                "another run took the cluster; run the same command again"
            )
        return pickle.loads(content)(item)

    return task


def _on_worker(function: bytes, versions: dict[str, str], item: Any) -> Any:
    """Check the library versions, then unpickle the function, which imports its modules."""
    import distributed

    address = distributed.get_worker().address
    _check_libraries(address, versions, _versions())  # the worker may have joined late
    try:
        return pickle.loads(function)(item)
    except OSError as error:  # `_connected` would take it for a connection error
        raise CxrError(f"worker {address}: {error}") from error


def _result(client: Any, future: Any, dask_scheduler: str) -> Any:
    """Wait for the result of a task as long as there are workers."""
    import distributed

    while True:
        try:
            return future.result(timeout=TIMEOUT)
        except TimeoutError:
            if not client.nthreads():
                raise _no_worker(dask_scheduler) from None
        except distributed.KilledWorker as error:
            raise CxrError(f"several workers died at the same task: {error}") from error


def uploaded_path(name: str) -> Path:
    """Path on a worker of the file that `imap` uploaded, next to the package."""
    return PACKAGE.parent / name
