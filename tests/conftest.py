"""Shared fixtures: phantoms, copies of the project, and the real images if available."""

import contextlib
import hashlib
import os
import shutil
import socket
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hypothesis
import pytest

from cxr.data import phantom
from cxr.data.known_sets import KNOWN_SETS
from cxr.tools.project_copy import PROJECT
from tests.support import threads  # noqa: F401  # before NumPy and TensorFlow
from tests.support.finished import finished_project
from tests.support.project import Project
from tests.support.servers import Handler, Serve, Site

if TYPE_CHECKING:
    from playwright.sync_api import Browser

# The same examples in every run and on every machine.
hypothesis.settings.register_profile("reproducible", derandomize=True, deadline=None, database=None)
hypothesis.settings.load_profile("reproducible")

# Fixtures that run DVC, a browser or a server, or read thousands of images.
SLOW = {"finished", "browser", "serve", "real_data"}


@pytest.hookimpl(optionalhook=True)  # of pytest-xdist, for `--numprocesses logical`
def pytest_xdist_auto_num_workers() -> int:
    """One more than there are cores: some tests wait for a queue, a server or a timeout."""
    return 1 + (os.cpu_count() or 1)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark slow tests, and sort modules in the order in which workers take them.

    Each worker runs whole modules (`--dist loadfile`), so that their fixtures are created once. The
    first worker starts with a module that builds the finished project; the others meanwhile run
    modules that do not need it. The fast tests of a module come first.
    """
    for item in items:
        if SLOW & fixtures(item):
            item.add_marker(pytest.mark.slow)
    with_project = [item.path for item in items if "finished" in fixtures(item)]
    slow = {item.path for item in items if is_slow(item)}

    def order(item: pytest.Item) -> tuple[bool, bool, bool, Path, bool]:
        path = item.path
        return (
            path not in with_project[:1],
            path not in slow,
            path in with_project,
            path,
            is_slow(item),
        )

    items.sort(key=order)


def fixtures(item: pytest.Item) -> set[str]:
    return set(getattr(item, "fixturenames", ()))


def is_slow(item: pytest.Item) -> bool:
    return item.get_closest_marker("slow") is not None


class Guard:
    """Fail a fast test that starts DVC or opens a socket, by Python's audit events."""

    test = ""  # name of the running test if it is fast

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        # Another thread may belong to an earlier test.
        if not self.test or threading.current_thread() is not threading.main_thread():
            return
        if event in ("socket.bind", "socket.connect") and arguments[0].family != socket.AF_UNIX:
            pytest.fail(f"{self.test} opens a socket: mark it slow")
        if event == "subprocess.Popen":
            words = " ".join(map(str, arguments[1])).split()
            if "dvc" in {word.rsplit("/", 1)[-1] for word in words}:
                pytest.fail(f"{self.test} starts DVC: mark it slow")


GUARD = Guard()
sys.addaudithook(GUARD)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    GUARD.test = "" if is_slow(item) else item.name
    try:
        return (yield)
    finally:
        GUARD.test = ""


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with phantoms of 40 patients. Do not modify it."""
    folder = tmp_path_factory.mktemp("phantoms") / "images"
    phantom.generate(folder, patients=40, seed=3, short_side=48)
    return folder


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """File of random weights of MobileNetV2. Do not change it."""
    from cxr.models import backbones  # here: it imports Keras, which takes seconds

    path = tmp_path_factory.mktemp("weights") / "mobilenetv2.weights.h5"
    backbones.ensure_weights(path, "mobilenetv2", "none")
    return path


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of the 256-pixel copy of the Kaggle set, `$CXR_TEST_DATA/chest_xray_256`."""
    folder = Path(os.environ.get("CXR_TEST_DATA", "")) / "chest_xray_256"
    if not os.environ.get("CXR_TEST_DATA") or not folder.is_dir():
        pytest.skip("CXR_TEST_DATA names no folder with chest_xray_256")
    return folder


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    """Start servers that send bytes as the Mendeley archive."""
    with contextlib.ExitStack() as stack:

        def start(data: bytes, **options: Any) -> Site:
            site = Site(data, **options)
            server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, site))
            stack.callback(server.server_close)
            stack.callback(server.shutdown)
            threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
            url = f"http://127.0.0.1:{server.server_port}/file_downloaded"
            sha256 = hashlib.sha256(data).hexdigest()
            local = replace(KNOWN_SETS["mendeley"], address=url, sha256=sha256)
            monkeypatch.setitem(KNOWN_SETS, "mendeley", local)
            return site

        yield start


@pytest.fixture(scope="module")
def browser() -> "Iterator[Browser]":
    executable = shutil.which("chromium") or shutil.which("google-chrome")
    if executable is None:
        pytest.skip("no Chromium on this machine")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def finished(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project after one `dvc repro`, committed. Tests must restore it."""
    cache = PROJECT / ".pytest_cache" / "finished"
    return finished_project(cache, tmp_path_factory.mktemp("project") / "project")
