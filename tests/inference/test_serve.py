"""The web page and its API: predictions, limits, hostile requests, nothing stored."""

import gzip
import io
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import numpy as np
import psutil
import pytest
import requests
from fastapi import FastAPI
from PIL import Image

from cxr import cli
from cxr.errors import CxrError
from cxr.inference import serve
from cxr.inference.predict import Predictor
from cxr.inference.serve import CONTENT_TYPES, Limits
from cxr.tools.project_copy import PROJECT
from tests.support.dicom_files import bomb, content_of, dataset, grey8
from tests.support.serving import export_with_keras, running
from tests.support.tiny import SIDE, content_as, export, grey
from tests.support.writes import WATCH, elsewhere

Start = Callable[..., str]

SECRET = "Mustermann"

pytestmark = pytest.mark.slow  # each test has a server


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_with_keras(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def url(exported: Path) -> Iterator[str]:
    with running(exported) as address:
        yield address


def ask(
    url: str, content: Any, kind: str = CONTENT_TYPES[0], path: str = "predict"
) -> requests.Response:
    headers = {"Content-Type": kind}
    return requests.post(f"{url}/api/{path}", content, headers=headers, timeout=60)


# --- predictions ---------------------------------------------------------------------------------


def test_the_api_returns_the_prediction_with_its_warnings(url: str, exported: Path) -> None:
    content = content_as(grey(128, (100, 40)))
    predictor = Predictor(exported)
    [expected] = predictor.predict_batch([predictor.decode(content, Path("x"))])
    assert any("width / height" in warning for warning in expected.warnings)
    found = ask(url, content)
    assert found.status_code == 200
    assert found.json() == expected.model_dump(mode="json")


@pytest.mark.parametrize("kind", [*CONTENT_TYPES, "Image/JPEG ; q=1"])
def test_the_format_is_detected_from_the_content(url: str, kind: str) -> None:
    made = dataset(np.full((40, 40), 140, np.uint8))
    for content in (content_as(grey(140)), content_as(grey(140), "JPEG"), content_of(made)):
        found = ask(url, content, f"{kind}; charset=x").json()
        assert found["probability"] == pytest.approx(140 / 255, abs=1e-6)


def test_the_image_is_the_network_input(url: str) -> None:
    image = grey(50, (80, 40))
    image.paste(200, (0, 0, 10, 40))  # beside the center
    found = ask(url, content_as(image), path="image")
    assert found.headers["Content-Type"] == "image/png"
    seen = np.asarray(Image.open(io.BytesIO(found.content)))
    assert seen.shape == (SIDE, SIDE)
    assert (seen == 50).all()


def test_the_heatmap_is_rgb_of_the_network_input_size(url: str) -> None:
    found = ask(url, content_as(Image.linear_gradient("L")), path="explain")
    assert found.status_code == 200, found.text
    picture = Image.open(io.BytesIO(found.content))
    assert (picture.mode, picture.size) == ("RGB", (SIDE, SIDE))


def test_without_keras_models_there_are_predictions_but_no_heatmaps(tmp_path: Path) -> None:
    export(tmp_path)
    with running(tmp_path, variant="left") as url:
        model = requests.get(f"{url}/api/model", timeout=9).json()
        assert (model["variant"], model["explains"]) == ("left", False)
        assert ask(url, content_as(grey(90))).json()["variant"] == "left"
        refused = ask(url, content_as(grey(90)), path="explain")
    assert refused.status_code == 501
    assert "left.keras" in refused.json()["detail"]


def test_50_concurrent_requests_get_their_own_predictions(url: str) -> None:
    levels = range(100, 150)
    gate = threading.Barrier(len(levels))

    def send(level: int) -> requests.Response:
        gate.wait()
        return ask(url, content_as(grey(level)))

    with ThreadPoolExecutor(len(levels)) as pool:
        found = list(pool.map(send, levels))
    assert [one.status_code for one in found] == [200] * 50
    probabilities = [one.json()["probability"] for one in found]
    assert probabilities == pytest.approx([level / 255 for level in levels], abs=1e-6)


# --- refused requests ----------------------------------------------------------------------------


def secret(damage: bytes = b"") -> bytes:
    made = grey8()
    made.PatientName = SECRET
    return content_of(made).replace(b"MONOCHROME2 ", damage or b"MONOCHROME2 ")


BAD = {
    "empty file": b"",
    "cannot identify": b"<html>no image</html>",
    "truncated": content_as(Image.effect_noise((200, 200), 50), "JPEG")[:2000],
    "100-megabyte limit (possible decompression bomb)": bomb(),
    "PhotometricInterpretation": secret(SECRET.encode() + b"  "),
}


@pytest.mark.parametrize(
    ("reason", "path"),
    [*((reason, "predict") for reason in BAD), ("truncated", "image"), ("truncated", "explain")],
)
def test_a_bad_file_is_refused_and_the_next_one_is_predicted(
    url: str, reason: str, path: str
) -> None:
    found = ask(url, BAD[reason], path=path)
    assert found.status_code == 422, found.text
    detail = found.json()["detail"]
    assert detail.startswith("the file: ")
    assert reason in detail
    assert SECRET not in detail
    assert ask(url, content_as(grey(51)), path=path).status_code == 200


@pytest.mark.parametrize(
    "kind", ["", "text/plain", "multipart/form-data; boundary=x", "image/webp"]
)
def test_content_types_without_cors_preflight_are_refused(url: str, kind: str) -> None:
    assert ask(url, content_as(grey(51)), kind).status_code == 415


@pytest.mark.parametrize(
    ("encoding", "status"),
    [("gzip", 415), ("deflate, gzip", 415), ("identity", 200), ("Identity", 200)],
)
def test_an_encoded_body_is_refused(url: str, encoding: str, status: int) -> None:
    image = content_as(grey(51))
    body = gzip.compress(image) if "gzip" in encoding else image
    headers = {"Content-Type": "image/png", "Content-Encoding": encoding}
    found = requests.post(f"{url}/api/predict", body, headers=headers, timeout=60)
    assert found.status_code == status
    if status == 415:
        assert "Content-Encoding is not supported" in found.json()["detail"]
        assert found.headers["Accept-Encoding"] == "identity"


@pytest.mark.parametrize("path", ["/card", "/api/model", "/page/app.js", "/api/predict"])
def test_head_is_get_without_the_body(url: str, path: str) -> None:
    expected = requests.get(url + path, timeout=9)
    found = requests.head(url + path, timeout=9)
    assert (found.status_code, found.content) == (expected.status_code, b"")
    assert found.headers["Content-Length"] == str(len(expected.content))


def test_all_links_are_below_the_path_of_a_mounted_page(exported: Path) -> None:
    with running(exported, base="/base") as url:
        for page in (f"{url}/", f"{url}/card"):
            links = re.findall(r'(?:href|src)="([^"]+)"', requests.get(page, timeout=9).text)
            assert len(links) >= 3
            for link in links:
                target = urljoin(page, link)
                assert requests.get(target, timeout=9).ok, target


def test_other_sites_get_no_cors_permission(url: str) -> None:
    headers = {"Origin": "http://evil.example", "Access-Control-Request-Method": "POST"}
    found = requests.options(f"{url}/api/predict", headers=headers, timeout=9)
    assert found.status_code == 405
    assert not [name for name in found.headers if name.startswith("Access-Control")]


@pytest.mark.parametrize(
    ("host", "status"),
    [("evil.example", 400), ("127.0.0.1.evil.example", 400), ("", 400), ("LOCALHOST:1", 200)],
)
def test_other_host_names_are_refused(url: str, host: str, status: int) -> None:
    found = requests.get(f"{url}/api/model", headers={"Host": host}, timeout=9)
    assert found.status_code == status


@pytest.mark.parametrize(
    ("path", "status"),
    [
        *(("/", 200), ("/card", 200), ("/page/app.js", 200), ("/openapi.json", 200)),
        *(("/docs", 404), ("/redoc", 404), ("/page/..%2fserve.py", 404), ("/api/predict", 405)),
    ],
)
def test_every_response_has_the_security_headers(url: str, path: str, status: int) -> None:
    found = requests.get(url + path, timeout=9)
    assert found.status_code == status
    assert found.headers.items() >= serve.HEADERS.items()


def test_a_large_file_is_refused_before_it_is_received(exported: Path) -> None:
    content = content_as(grey(51))
    with running(exported, Limits(file_bytes=len(content))) as url:
        assert ask(url, content).status_code == 200
        assert ask(url, content + b"\0").status_code == 413
        assert ask(url, iter([content])).status_code == 200  # in chunks, of unknown length
        assert ask(url, iter([content, b"\0"])).status_code == 413
        with begun(url, 10**12) as connection:
            assert b" 413 " in connection.recv(100)


@contextmanager
def begun(url: str, length: int | str, sent: bytes = b"") -> Iterator[socket.socket]:
    """A connection that has sent the beginning of a file of some length."""
    address = url.removeprefix("http://")
    host, port = address.split(":")
    head = f"POST /api/predict HTTP/1.1\r\nHost: {address}\r\nContent-Type: {CONTENT_TYPES[0]}\r\n"
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(f"{head}Content-Length: {length}\r\n\r\n".encode() + sent)
        yield connection


def test_a_chunked_body_longer_than_its_content_length_is_refused(exported: Path) -> None:
    body = b"40\r\n" + bytes(64) + b"\r\n"
    with (
        running(exported) as url,
        begun(url, "1\r\nTransfer-Encoding: chunked", body) as connection,
    ):
        assert b" 413 " in connection.recv(100)


def test_a_slow_upload_times_out(exported: Path) -> None:
    with running(exported, Limits(body_seconds=0.2)) as url, begun(url, 100, b"x") as connection:
        response = b"".join(iter(lambda: connection.recv(4096), b""))  # until it is closed
    assert b" 408 " in response


def test_a_slow_prediction_times_out(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    released = threading.Event()
    original = Predictor.predict_batch
    monkeypatch.setattr(
        Predictor, "predict_batch", lambda *given: released.wait(60) and original(*given)
    )
    with running(exported, Limits(answer_seconds=0.2)) as url:
        found = ask(url, content_as(grey(51)))
        assert (found.status_code, found.headers["Retry-After"]) == (503, "5")
        released.set()
        assert eventually(lambda: ask(url, content_as(grey(51))).status_code == 200)


@pytest.mark.parametrize("limits", [Limits(requests=1), Limits(held_bytes=1000)])
def test_too_many_concurrent_requests_get_retry_after(exported: Path, limits: Limits) -> None:
    content = content_as(grey(51))
    with running(exported, limits) as url:
        with begun(url, 950, content) as connection:
            assert eventually(lambda: ask(url, content).status_code == 503)
            found = ask(url, content)
            assert found.headers["Retry-After"] == "5"
            connection.sendall(bytes(950 - len(content)))  # Pillow ignores bytes after the end
            assert b" 200 " in connection.recv(100)
        assert eventually(lambda: ask(url, content).status_code == 200)
        with begun(url, 950, content):
            pass  # disconnects in the middle of its file
        assert eventually(lambda: ask(url, content).status_code == 200)


def eventually(is_so: Callable[[], bool], seconds: float = 20) -> bool:
    end = time.monotonic() + seconds
    while not (found := is_so()) and time.monotonic() < end:
        time.sleep(0.05)
    return found


# --- OpenAPI -------------------------------------------------------------------------------------


def test_the_api_matches_its_description(url: str, tmp_path: Path) -> None:
    """Checked by Schemathesis, with image files that it cannot generate itself."""
    code = "from tests.support import uploads; import schemathesis.cli as s; s.schemathesis()"
    arguments = ["run", f"{url}/openapi.json", "--max-examples=25", "--seed=1", "--workers=1"]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": f"{PROJECT}{os.pathsep}{PROJECT / 'src'}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", ["predict", "image", "explain"])
def test_every_error_status_is_described(url: str, path: str) -> None:
    found = requests.get(f"{url}/openapi.json", timeout=9).json()
    described = found["paths"][f"/api/{path}"]["post"]
    assert described["responses"].keys() >= {"200", "400", "408", "413", "415", "422", "503"}
    assert described["requestBody"]["content"].keys() == set(CONTENT_TYPES)


# --- the command ---------------------------------------------------------------------------------


@contextmanager
def command(models: Path, folder: Path) -> Iterator[tuple["subprocess.Popen[str]", str]]:
    """`cxr serve` with empty home, temporary and working folders of its own."""
    code = "from cxr import cli; cli.main()"
    places = {"HOME": folder / "home", "TMPDIR": folder / "tmp", "PWD": folder / "here"}
    for place in places.values():
        place.mkdir()
    (folder / "log").touch()
    environment = {
        **os.environ,
        **{name: str(place) for name, place in places.items()},
        "PYTHONPATH": f"{WATCH}{os.pathsep}{PROJECT / 'src'}",
        "WRITES_LOG": str(folder / "log"),
    }
    arguments = ["serve", "--port", "0", "--models", str(models)]
    with subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        cwd=places["PWD"],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process, process.stdout.readline().split("/ ")[0]
        finally:
            process.kill()


def resident(pid: int, url: str, contents: list[bytes], counts: list[int]) -> list[float]:
    """Memory of a server in MB after `counts` requests of two concurrent clients."""
    found = []
    with ThreadPoolExecutor(2) as pool:
        for before, count in zip([0, *counts], counts, strict=False):
            chosen = [contents[number % len(contents)] for number in range(before, count)]
            for response in pool.map(lambda content: ask(url, content), chosen):
                assert response.status_code in (200, 422)
            found.append(psutil.Process(pid).memory_info().rss / 1e6)
    return found


def test_nothing_is_written_memory_is_constant_and_ctrl_c_stops_it(
    exported: Path, tmp_path: Path
) -> None:
    noise = np.random.default_rng(1).integers(0, 255, (1000, 1000), np.uint8)
    contents = [
        content_as(Image.fromarray(noise)),
        content_of(dataset(noise)),
        BAD["truncated"],
        secret(),
    ]
    with command(exported, tmp_path) as (process, url):
        early, late = resident(process.pid, url, contents, [100, 300])
        assert late < early + 30  # the files total 100 MB
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
    for name in ("home", "tmp", "here"):
        assert not list((tmp_path / name).iterdir())
    assert elsewhere(tmp_path / "log") == set()


def run(*arguments: str) -> None:
    chosen = cli.parser().parse_args(["serve", *arguments])
    chosen.run(chosen)


def test_a_port_in_use_is_an_error(exported: Path) -> None:
    with serve.listen("127.0.0.1", 0) as listener:
        port = str(listener.getsockname()[1])
        with pytest.raises(CxrError, match=f"cannot listen on 127.0.0.1, port {port}: Address"):
            run("--port", port, "--models", str(exported))


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["--port", "99999"], "port 99999"),
        (["--host", "192.0.2.1"], "192.0.2.1"),  # of no machine (RFC 5737)
        (["--models", "none"], "settings.json cannot be read"),
    ],
)
def test_invalid_arguments_are_reported_at_the_start(arguments: list[str], error: str) -> None:
    with pytest.raises(CxrError, match=error):
        run("--port", "0", *arguments)


def test_a_missing_model_card_is_an_error(tmp_path: Path) -> None:
    export(tmp_path)
    (tmp_path / "model_card.md").unlink()
    with pytest.raises(CxrError, match=r"model_card.md cannot be read .*run `dvc repro export`"):
        serve.application(tmp_path)


@pytest.mark.parametrize(
    ("host", "allowed", "warned"),
    [
        ("0.0.0.0", ["*"], True),
        ("127.0.0.1", [*serve.LOOPBACK, "127.0.0.1"], False),
        ("LocalHost", [*serve.LOOPBACK, "localhost"], False),  # as browsers send it
    ],
)
def test_a_network_address_is_warned_of_and_allows_any_host_name(
    exported: Path,
    host: str,
    allowed: list[str],
    warned: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    made: list[FastAPI] = []
    monkeypatch.setattr(serve.uvicorn.Server, "run", lambda self, **_: made.append(self.config.app))
    run("--host", host, "--port", "0", "--models", str(exported))
    printed = capsys.readouterr()
    assert printed.out.startswith(f"http://{host}:")
    assert ("WARNING" in printed.err) == warned
    hosts = [one.kwargs.get("allowed_hosts") for one in made[0].user_middleware]
    assert allowed in hosts
