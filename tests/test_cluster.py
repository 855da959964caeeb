"""A Dask cluster on loopback gives what this machine gives alone, byte for byte."""

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np
import pytest

from cxr import cluster
from cxr.cleaning import read_prepared
from cxr.engines import run_over
from cxr.errors import CxrError
from cxr.images import ImageError
from cxr.params import ImageParams
from cxr.preprocessing import TASK, read_all

PARAMS = ImageParams(size=32, trim=False, region="whole", resize="crop", intensity="as_is")

pytestmark = pytest.mark.slow


class Cluster:
    """A scheduler with workers, none of which is started again when it dies."""

    def __init__(self, folder: Path, workers: int = 2) -> None:
        self.folder, self.workers = folder, []
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
        port = self.address.rsplit(":", 1)[1]
        self.scheduler = self.start("scheduler", "--host=127.0.0.1", f"--port={port}")
        for _ in range(workers):
            self.add_worker()

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", "dask", *arguments, "--no-dashboard"],
            cwd=self.folder,
            env={key: value for key, value in os.environ.items() if key != "PYTHONPATH"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def add_worker(self) -> None:
        worker = self.start("worker", self.address, "--no-nanny", "--nthreads=1")
        self.workers.append(worker)

    def end(self) -> None:
        for process in (*self.workers, self.scheduler):
            process.kill()
            process.wait()


@pytest.fixture
def dask(tmp_path: Path) -> Iterator[Cluster]:
    started = Cluster(tmp_path)
    yield started
    started.end()


@pytest.fixture(scope="module")
def files(phantoms: Path) -> list[Path]:
    return sorted(phantoms.rglob("*.jpeg"))


def test_images_are_those_of_this_machine(dask: Cluster, files: list[Path]) -> None:
    assert len(files) > 2 * TASK
    found = np.stack(list(read_all(files, PARAMS, dask.address)))
    assert np.array_equal(found, np.stack(list(read_all(files, PARAMS))))


def test_a_model_gives_the_same_on_workers(dask: Cluster) -> None:
    keras.utils.set_random_seed(1)
    image = keras.Input((32, 32, 1), dtype="uint8")
    maps = keras.layers.Conv2D(8, 3)(keras.layers.Rescaling(1 / 255)(image))
    model = keras.Model(image, keras.layers.GlobalAveragePooling2D()(maps))
    drawn = np.random.default_rng(1).integers(0, 256, (7, 4, 32, 32, 1), np.uint8)
    here, there = (
        np.concatenate(list(run_over(model, "openvino", drawn, scheduler)))
        for scheduler in ("", dask.address)
    )
    assert here.shape == (28, 8)
    assert np.array_equal(here, there)


def test_a_worker_that_dies_is_survived(dask: Cluster, files: list[Path]) -> None:
    many = files * 30
    images = read_all(many, PARAMS, dask.address)
    first = next(images)
    os.kill(dask.workers[0].pid, signal.SIGKILL)
    found = np.stack([first, *images])
    expected = np.stack([read_prepared(path, PARAMS) for path in files])
    assert np.array_equal(found, np.concatenate([expected] * 30))


def test_all_workers_lost_is_an_error(
    dask: Cluster, files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    images = read_all(files * 30, PARAMS, dask.address)
    next(images)
    monkeypatch.setattr(cluster, "FIND_WITHIN", 2)
    for worker in dask.workers:
        worker.kill()
    with pytest.raises(CxrError, match="has no worker"):
        list(images)


def test_a_damaged_image_is_named(dask: Cluster, files: list[Path], tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.jpeg"
    damaged.write_bytes(files[0].read_bytes()[:200])
    with pytest.raises(ImageError, match=r"damaged\.jpeg"):
        list(read_all([*files, damaged], PARAMS, dask.address))


def test_other_libraries_are_refused(
    dask: Cluster, files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "LIBRARIES", ("pillow",))
    monkeypatch.setattr(cluster, "version", lambda name: "1.0")  # here alone
    with pytest.raises(CxrError, match=r"worker tcp://.* has pillow \d+.*, not 1\.0"):
        list(read_all(files, PARAMS, dask.address))


def test_workers_run_todays_code(
    dask: Cluster, files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert np.stack(list(read_all(files[:2], PARAMS, dask.address))).any()
    package = tmp_path / "other" / "cxr"
    shutil.copytree(Path(cluster.__file__).parent, package)
    code = (package / "cleaning.py").read_text(encoding="utf-8")
    changed = code.replace("return standardise(", "return 0 * standardise(")
    (package / "cleaning.py").write_text(changed, encoding="utf-8")
    monkeypatch.setattr(cluster, "__file__", str(package / "cluster.py"))
    assert not np.stack(list(read_all(files[:2], PARAMS, dask.address))).any()


def test_no_scheduler_is_an_error(files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "FIND_WITHIN", 1)
    with pytest.raises(CxrError, match=r"tcp://127\.0\.0\.1:9: no scheduler answers"):
        list(read_all(files, PARAMS, "tcp://127.0.0.1:9"))


def test_a_scheduler_without_workers_is_an_error(
    tmp_path: Path, files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "FIND_WITHIN", 5)
    started = Cluster(tmp_path, workers=0)
    with pytest.raises(CxrError, match="has no worker"):
        list(read_all(files, PARAMS, started.address))
    started.end()
