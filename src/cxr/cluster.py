"""Work on images by many machines, a Dask cluster (`preprocess.scheduler`), in the order given.

docs/scaling.md has the commands that start one.
"""

import pickle
import shutil
import sys
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cache, partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar

from cxr.errors import CxrError

Item = TypeVar("Item")
Result = TypeVar("Result")

FIND_WITHIN = 30  # seconds for the scheduler and its first worker to answer
AHEAD = 3  # tasks sent for each thread of the cluster: none waits, and memory stays flat
PREFIX = "cxr-"  # of the names of runs, under which the cluster has what they brought
# What decides the bytes of a result has to be the same everywhere.
LIBRARIES = ("keras", "numpy", "opencv-python-headless", "openvino", "pillow", "tensorflow")


def over(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    scheduler: str,
    file: Path | None = None,
) -> Iterator[Result]:
    """Results of a function for each item, in order; an item whose worker dies goes to another.

    One run at a time has the cluster. A second one says so and waits.

    Args:
        function: of the package or a `partial` of one; what it raises is raised here, an OSError
            as a CxrError that names the worker.
        items: built-in types and arrays; paths have to be those of the workers, too.
        scheduler: address, as tcp://10.0.0.1:8786.
        file: is brought to each worker, which finds it as `brought(name)`.

    Raises:
        CxrError: no scheduler or worker answers, all workers are lost, one has other libraries or
            cannot read a file, or another run has the cluster, as this one was not heard of for too
            long.
    """
    with (
        _connected(scheduler) as client,
        _alone(client, scheduler),
        _brought_to_workers(client, function, file) as run,
    ):
        task = _task(run)
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
            "preprocess.scheduler needs the package distributed: pip install distributed"
        ) from error
    try:
        client = distributed.Client(scheduler, timeout=FIND_WITHIN, set_as_default=False)
    except (OSError, ValueError) as error:
        raise CxrError(
            f"preprocess.scheduler {scheduler}: no scheduler answers there ({error}); start one "
            "with `dask scheduler`, or leave the key empty to use this machine"
        ) from error
    with client:
        try:
            client.wait_for_workers(1, timeout=FIND_WITHIN)
        except TimeoutError as error:
            raise _no_worker(scheduler) from error
        try:
            yield client
        except (OSError, distributed.client.FutureCancelledError) as error:
            raise CxrError(f"preprocess.scheduler {scheduler} is gone: {error}") from error


def _no_worker(scheduler: str) -> CxrError:
    return CxrError(
        f"preprocess.scheduler {scheduler} has no worker (left); start some with "
        f"`dask worker {scheduler}`, then run the same command again"
    )


@contextmanager
def _alone(client: Any, scheduler: str) -> Iterator[None]:
    """Wait for the end of another run: a worker can have the code of one at a time.

    Dask frees the lock of a client that it has not heard of for `lease-timeout`, 30 seconds.
    """
    import distributed

    lock = distributed.Lock("cxr", scheduler_rpc=client.scheduler, loop=client.loop)
    if not lock.acquire(blocking=False):
        print(f"another run has the cluster {scheduler}: waiting for its end", file=sys.stderr)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _brought_to_workers(
    client: Any, function: Callable[[Item], Result], file: Path | None
) -> Iterator[str]:
    """The name of a run that all workers know, also those that come later."""
    for name in client.run_on_scheduler(lambda dask_scheduler: list(dask_scheduler.worker_plugins)):
        if name.startswith(PREFIX):  # a run that was killed
            client.unregister_worker_plugin(name)
    run = f"{PREFIX}{uuid.uuid4()}"
    try:
        client.register_plugin(_plugin(run, function, file), name=run)
        yield run
    finally:
        with suppress(OSError, ValueError):  # the scheduler is gone, or another run did this
            client.unregister_worker_plugin(run)


def _plugin(run: str, function: Callable[[Item], Result], file: Path | None) -> Any:
    """What puts this package and a file into a folder of a worker, and calls a function there.

    The class is local, so that Dask sends its code: workers know nothing of this package yet.
    """
    from distributed.diagnostics.plugin import WorkerPlugin

    package = Path(__file__).parent
    files = {f"cxr/{path.name}": path.read_bytes() for path in package.glob("*.py")}
    if file:
        files[file.name] = file.read_bytes()
    on_worker = pickle.dumps(partial(_on_worker, pickle.dumps(function), _versions()))

    class Brought(WorkerPlugin):
        def setup(self, worker: Any) -> None:
            self.folder = Path(worker.local_directory) / run
            (self.folder / "cxr").mkdir(parents=True)
            for name, content in files.items():
                (self.folder / name).write_bytes(content)
            sys.path.insert(0, str(self.folder))
            for name in [name for name in sys.modules if name.split(".")[0] == "cxr"]:
                del sys.modules[name]  # the code of another run

        def call(self, item: Any) -> Any:
            return pickle.loads(on_worker)(item)

        def teardown(self, worker: Any) -> None:
            sys.path.remove(str(self.folder))
            shutil.rmtree(self.folder)

    return Brought()


def _task(run: str) -> Callable[[Any], Any]:
    """What is done with an item; local for the same reason."""

    def task(item: Any) -> Any:
        import distributed

        plugin: Any = distributed.get_worker().plugins.get(run)
        if not plugin:
            raise ConnectionAbortedError("another run has it; run the same command again")
        return plugin.call(item)

    return task


def _on_worker(function: bytes, wanted: dict[str, str], item: Any) -> Any:
    """The result of a function whose modules are imported only beside the right libraries."""
    import distributed

    address = distributed.get_worker().address
    found = _versions()
    other = [
        f"{name} {found[name]}, not {own}" for name, own in wanted.items() if found[name] != own
    ]
    if other:
        raise CxrError(
            f"the worker {address} has {', '.join(other)}: install the same lock of "
            "requirements/ everywhere"
        )
    try:
        return pickle.loads(function)(item)
    except OSError as error:  # which here would be taken for one of the connection
        raise CxrError(f"the worker {address}: {error}") from error


@cache
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


def brought(name: str) -> Path:
    """Where a worker has the file that `over` brought: beside the package."""
    return Path(__file__).parents[1] / name
