"""A Dask cluster on loopback gives the same bytes as this machine; failures of its workers."""

import operator
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dask.config
import distributed
import keras
import numpy as np
import pytest

from cxr.compute import cluster
from cxr.compute.engines import run_over
from cxr.data.images import ImageError
from cxr.data.preprocess import TASK_IMAGES, read_all
from cxr.data.transforms import read_prepared
from cxr.errors import CxrError
from cxr.params import ImageParams
from cxr.tools.project_copy import PROJECT

PARAMS = ImageParams(input_size=32, resize="crop")

pytestmark = pytest.mark.slow


class Cluster:
    """A scheduler and workers; the processes started here are the nannies of the workers."""

    def __init__(self, folder: Path, workers: int = 2, **environment: str) -> None:
        self.folder, self.workers = folder, []
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
        port = self.address.rsplit(":", 1)[1]
        (folder / "empty" / "cxr").mkdir(parents=True)
        (folder / "empty" / "cxr" / "__init__.py").touch()
        environment["PYTHONPATH"] = str(folder / "empty")  # the scheduler needs none of the code
        self.scheduler = self.start(
            "scheduler", "--host=127.0.0.1", f"--port={port}", **environment
        )
        for _ in range(workers):
            self.add_worker()
        # Long, for slow machines.
        with distributed.Client(self.address, timeout=300, set_as_default=False) as client:
            client.wait_for_workers(workers, timeout=300)

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[bytes]:
        inherited = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        return subprocess.Popen(
            [sys.executable, "-m", "dask", *arguments, "--no-dashboard"],
            cwd=self.folder,
            env={**inherited, **environment},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def add_worker(self, *options: str, **environment: str) -> subprocess.Popen[bytes]:
        options = ("--nthreads=1", f"--local-directory={self.folder}", *options)
        self.workers.append(self.start("worker", self.address, *options, **environment))
        return self.workers[-1]

    @contextmanager
    def with_another(self, *options: str, **environment: str) -> Iterator[None]:
        """Run one more worker meanwhile."""
        process = self.add_worker(*options, **environment)
        try:
            yield
        finally:
            process.terminate()
            process.wait()

    def run(self, function: Callable[[], Any]) -> dict[str, Any]:
        """Results of a function by worker."""
        with distributed.Client(self.address, set_as_default=False) as client:
            return dict(client.run(function))

    def __enter__(self) -> "Cluster":
        return self

    def __exit__(self, *_: object) -> None:
        for process in (*self.workers, self.scheduler):
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def dask_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Two workers. Tests must not stop them."""
    with Cluster(tmp_path_factory.mktemp("dask")) as started:
        yield started


@pytest.fixture(scope="module")
def files(phantoms: Path) -> list[Path]:
    return sorted(phantoms.rglob("*.jpeg"))


def test_images_equal_local_ones(dask_cluster: Cluster, files: list[Path]) -> None:
    assert len(files) > 2 * TASK_IMAGES
    remote = np.stack(list(read_all(files, PARAMS, dask_cluster.address)))
    assert np.array_equal(remote, np.stack(list(read_all(files, PARAMS))))


def test_model_outputs_equal_local_ones(dask_cluster: Cluster) -> None:
    keras.utils.set_random_seed(1)
    image = keras.Input((32, 32, 1), dtype="uint8")
    maps = keras.layers.Conv2D(8, 3)(keras.layers.Rescaling(1 / 255)(image))
    model = keras.Model(image, keras.layers.GlobalAveragePooling2D()(maps))
    batches = np.random.default_rng(1).integers(0, 256, (7, 4, 32, 32, 1), np.uint8)
    local, remote = (
        np.concatenate(list(run_over(model, "openvino", batches, scheduler)))
        for scheduler in ("", dask_cluster.address)
    )
    assert local.shape == (28, 8)
    assert np.array_equal(local, remote)
    processes = dask_cluster.run(os.getpid)
    next(run_over(model, "openvino", batches, dask_cluster.address))
    assert dask_cluster.run(os.getpid) == processes  # not restarted, as they have the model


def test_workers_join_and_die(
    tmp_path: Path, files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A late worker receives the code, a dead one is replaced, none left raises."""
    with Cluster(tmp_path, workers=1) as started:
        images = read_all(files * 30, PARAMS, started.address)
        first = next(images)
        ((_, crashing),) = started.run(os.getpid).items()
        os.kill(crashing, signal.SIGKILL)  # its nanny restarts it
        results = [first, *(next(images) for _ in range(5 * len(files)))]
        started.add_worker()
        os.kill(started.workers[0].pid, signal.SIGKILL)
        results += images
        expected = np.stack([read_prepared(path, PARAMS) for path in files])
        assert np.array_equal(results, np.concatenate([expected] * 30))

        images = read_all(files * 30, PARAMS, started.address)
        next(images)
        monkeypatch.setattr(cluster, "TIMEOUT", 2)
        started.workers[1].kill()
        with pytest.raises(CxrError, match="has no worker"):
            list(images)
        with pytest.raises(CxrError, match="has no worker"):  # from the start
            list(read_all(files, PARAMS, started.address))


def test_damaged_image_is_named(dask_cluster: Cluster, files: list[Path], tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.jpeg"
    damaged.write_bytes(files[0].read_bytes()[:200])
    with pytest.raises(ImageError, match=r"damaged\.jpeg"):
        list(read_all([*files, damaged], PARAMS, dask_cluster.address))


def test_file_missing_on_a_worker_is_named(dask_cluster: Cluster, tmp_path: Path) -> None:
    """It is not reported as a connection error."""
    missing = str(tmp_path / "missing.csv")
    with pytest.raises(CxrError, match=r"worker tcp://.*No such file.*missing\.csv") as caught:
        list(cluster.imap(os.stat, [missing], dask_cluster.address))
    assert dask_cluster.address not in str(caught.value)


def test_different_library_versions_raise(
    dask_cluster: Cluster, files: list[Path], tmp_path: Path
) -> None:
    """Of a worker that joins during a run, and of one that is there before."""
    (tmp_path / "pillow-1.0.dist-info").mkdir()
    (tmp_path / "pillow-1.0.dist-info" / "METADATA").write_text("Name: pillow\nVersion: 1.0\n")
    naps = cluster.imap(time.sleep, [0.1] * 1200, dask_cluster.address)
    next(naps)
    with dask_cluster.with_another(PYTHONPATH=str(tmp_path)):
        # A worker that joins during a run may get a task before it has the code.
        with pytest.raises(
            CxrError, match=r"has pillow 1\.0, not \d+|not have the code of this run"
        ):
            list(naps)
        with pytest.raises(CxrError, match=r"worker tcp://.* has pillow 1\.0, not \d+"):
            list(read_all(files, PARAMS, dask_cluster.address))


def test_worker_without_nanny_raises(dask_cluster: Cluster, files: list[Path]) -> None:
    naps = cluster.imap(time.sleep, [0.1] * 1200, dask_cluster.address)
    next(naps)
    with dask_cluster.with_another("--no-nanny"):
        for results in (naps, read_all(files, PARAMS, dask_cluster.address)):
            with pytest.raises(CxrError, match=r"worker .*the code of this run.*--no-nanny"):
                list(results)


def test_workers_run_the_current_code(
    dask_cluster: Cluster, files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    many = files * 4  # work for both workers
    assert np.stack(list(read_all(many, PARAMS, dask_cluster.address))).any()
    processes = dask_cluster.run(os.getpid)
    assert np.stack(list(read_all(many, PARAMS, dask_cluster.address))).any()
    assert dask_cluster.run(os.getpid) == processes  # not restarted, as they have the code
    package = tmp_path / "other" / "cxr"
    shutil.copytree(cluster.PACKAGE, package)
    transforms = package / "data/transforms.py"
    code = transforms.read_text(encoding="utf-8")
    changed = code.replace("return to_square(", "return below.FACTOR * to_square(")
    transforms.write_text(f"from cxr.sub import below\n{changed}", encoding="utf-8")
    (package / "sub").mkdir()
    (package / "sub" / "below.py").write_text("FACTOR = 0\n", encoding="utf-8")
    monkeypatch.setattr(cluster, "PACKAGE", package)
    assert not np.stack(list(read_all(many, PARAMS, dask_cluster.address))).any()


def test_second_run_waits(dask_cluster: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    first = cluster.imap(operator.neg, range(20), dask_cluster.address)
    results = [next(first)]
    others: list[int] = []
    second = threading.Thread(
        target=lambda: others.extend(cluster.imap(abs, [-1, -2], dask_cluster.address))
    )
    second.start()
    message = ""
    while second.is_alive() and not message:
        time.sleep(0.1)
        message += capsys.readouterr().err
    assert dask_cluster.address in message and "waiting" in message
    assert not others
    results += first
    second.join()
    assert results == [-number for number in range(20)] and others == [1, 2]


HOLDER = """
import operator, sys
from cxr.compute.cluster import imap
results = imap(operator.neg, range(100), sys.argv[1])
print(next(results), flush=True)
sys.stdin.readline()
list(results)
"""


@pytest.fixture
def short_lease(tmp_path: Path) -> Iterator[tuple[Cluster, subprocess.Popen[str]]]:
    """A cluster that releases its lock after two seconds, and a run that holds it."""
    locks = "DASK_DISTRIBUTED__SCHEDULER__LOCKS__LEASE_"
    with (
        Cluster(tmp_path, workers=1, **{f"{locks}VALIDATION_INTERVAL": "500ms"}) as started,
        subprocess.Popen(
            [sys.executable, "-c", HOLDER, started.address],
            env={**os.environ, f"{locks}TIMEOUT": "2s", "PYTHONPATH": str(PROJECT / "src")},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as holder,
        dask.config.set({"distributed.scheduler.locks.lease-timeout": "2s"}),
    ):
        assert holder.stdout and holder.stdout.readline() == "0\n"
        yield started, holder
        holder.kill()


def test_run_that_hangs_loses_the_cluster(
    short_lease: tuple[Cluster, subprocess.Popen[str]], tmp_path: Path
) -> None:
    """Like one that was killed: the scheduler cannot tell them apart."""
    started, holder = short_lease
    (tmp_path / "other code").touch()
    holder.send_signal(signal.SIGSTOP)
    second = cluster.imap(operator.neg, range(20), started.address, tmp_path / "other code")
    results = [next(second)]
    holder.send_signal(signal.SIGCONT)
    _, errors = holder.communicate("continue\n", timeout=60)
    assert "another run took the cluster" in errors
    results += second
    assert results == [-number for number in range(20)]


def test_missing_scheduler_raises(files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "TIMEOUT", 1)
    with pytest.raises(CxrError, match=r"dask_scheduler tcp://127\.0\.0\.1:9: no scheduler"):
        list(read_all(files, PARAMS, "tcp://127.0.0.1:9"))


@pytest.mark.parametrize("failures", [0, 2, 3])
def test_workers_of_one_host_may_unpack_at_the_same_time(failures: int) -> None:
    class Client:
        calls = 0

        def register_plugin(self, plugin: str) -> None:
            assert plugin == "upload"
            self.calls += 1
            if self.calls <= failures:
                raise FileExistsError

    client = Client()
    if failures == 3:
        with pytest.raises(FileExistsError):
            cluster._register(client, "upload")
    else:
        cluster._register(client, "upload")
    assert client.calls == min(failures + 1, 3)
