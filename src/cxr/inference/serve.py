"""Local web page and JSON API for predictions. Nothing is stored.

The body of a request is the file itself, without its name, and no temporary file is written. Bytes,
seconds and concurrent requests are limited.

Pages of other sites can neither send nor read: the accepted content types make browsers send a CORS
preflight, which is never granted, and other host names than the server's are refused (against DNS
rebinding).
"""

import asyncio
import ipaddress
import socket
import sys
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import imageio.v3 as iio
import numpy as np
import uvicorn
from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.middleware.trustedhost import TrustedHostMiddleware
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, Response
from fastapi.staticfiles import StaticFiles
from numpy.typing import NDArray
from pydantic import BaseModel, Field
from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cxr.data.images import MAX_PIXELS, ImageError
from cxr.errors import CxrError, extra
from cxr.inference.predict import SUFFIXES, Prediction, Predictor
from cxr.inference.radiograph import MAX_BYTES
from cxr.reporting.document import html_page
from cxr.reporting.templates import STYLE

if TYPE_CHECKING:
    from cxr.inference.gradcam import Explainer


T = TypeVar("T")

WEB = Path(__file__).with_name("web")  # the page
LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
CONTENT_TYPES = (
    *("application/octet-stream", "application/dicom"),
    *("image/jpeg", "image/jpg", "image/png"),  # image/jpg is not registered, but is in use
)
UPLOAD = Path("the file")  # its name in errors
DECODERS = 2  # threads; each may hold a decoded image of `MAX_PIXELS`
MAX_CONNECTIONS = 256  # including idle ones
SHUTDOWN_SECONDS = 5  # for requests in progress
API_VERSION = "2"
RETRY_SECONDS = 5  # value of Retry-After if the server is busy

HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "connect-src 'self'; img-src 'self' blob:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


@dataclass(frozen=True)
class Limits:
    """Limits of requests; what exceeds them is refused.

    Attributes:
        file_bytes: size of one body; default: the largest image that is decoded, at 16 bits.
        held_bytes: total size of the bodies in memory.
        requests: concurrent requests with a body.
        body_seconds: time to receive a body.
        answer_seconds: time from then to the response.
    """

    file_bytes: int = MAX_BYTES
    held_bytes: int = 8 * MAX_PIXELS
    requests: int = 100
    body_seconds: float = 30
    answer_seconds: float = 60


LIMITS = Limits()

# --- responses, as described in /openapi.json ----------------------------------------------------


class Model(BaseModel):
    """The served model and the limits of requests."""

    variant: str = Field(description="Name of the model.")
    threshold: float = Field(ge=0, le=1, description="Operating point of the variant.")
    ood_false_positive_rate: dict[str, float] = Field(
        description="Fraction of the images of a split with an out-of-distribution warning."
    )
    explains: bool = Field(description="Whether the models that /api/explain needs are available.")
    max_bytes: int = Field(description="Maximum size of a file.")
    max_requests: int = Field(description="Maximum number of concurrent requests; retry later.")
    seconds: float = Field(description="Maximum time to a response.")
    suffixes: list[str] = Field(
        description="Suffixes of files in a folder that are read whatever their first bytes; other "
        "files are read if their first bytes are those of JPEG, PNG or DICOM."
    )


class Problem(BaseModel):
    """Why a request failed."""

    detail: str


def _problem(description: str) -> dict[str, Any]:
    return {"model": Problem, "description": description}


ANY_ERROR: dict[int | str, dict[str, Any]] = {
    400: {
        "description": "The Host header is not a name of this server.",
        "content": {"text/plain": {"schema": {"type": "string"}}},
    }
}
FILE_ERRORS: dict[int | str, dict[str, Any]] = {
    408: _problem("The body was not received in time."),
    413: _problem("The file is too large."),
    415: _problem(
        f"Content-Type is not one of {', '.join(CONTENT_TYPES)}, or the body is encoded."
    ),
    422: _problem("The file is not a readable image."),
    503: _problem("The server is busy, or the request timed out; retry later.")
    | {"headers": {"Retry-After": {"description": "Seconds.", "schema": {"type": "integer"}}}},
}
FILE = {"schema": {"type": "string", "format": "binary"}}
BODY = {
    "requestBody": {
        "description": "The bytes of a JPEG, PNG or DICOM file. The format is detected from them, "
        "not from Content-Type.",
        "required": True,
        "content": dict.fromkeys(CONTENT_TYPES, FILE),
    }
}
IMAGE: dict[int | str, dict[str, Any]] = {
    200: {"description": "A square image.", "content": {"image/png": FILE}}
}
GIVES_IMAGE: dict[str, Any] = {"response_class": Response, "openapi_extra": BODY}
NO_EXPLAINER: dict[int | str, dict[str, Any]] = {
    501: _problem("The Keras models that this needs are not available.")
}


# --- from a request to its response --------------------------------------------------------------


class Service:
    """One variant behind the endpoints: threads decode in parallel, the networks run one at a time.

    Args:
        models: folder of exported models.
        variant: name; empty: the recommended variant.
        limits: limits of requests.

    Raises:
        CxrError: as `Predictor`, or the model card is missing.
    """

    def __init__(self, models: Path, variant: str, limits: Limits) -> None:
        self.predictor = Predictor(models, variant)
        self.card = _card(models)
        self.limits = limits
        self.predicting = ThreadPoolExecutor(DECODERS)
        self.explaining = ThreadPoolExecutor(1)  # the only thread that uses TensorFlow
        self._networks = threading.Lock()  # OpenVINO's requests are not thread-safe
        self._requests = 0
        self._held = 0

    async def content(self, request: Request) -> AsyncIterator[bytes]:
        """Body of a request, which counts as held until the response is complete.

        Raises:
            HTTPException: 408, 413, 415 or 503.
        """
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind not in CONTENT_TYPES:
            expected = " or ".join(CONTENT_TYPES)
            raise HTTPException(415, f"set Content-Type to {expected}")
        encoding = request.headers.get("content-encoding", "identity").strip().lower()
        if encoding != "identity":
            refusal = "send the file unencoded: Content-Encoding is not supported"
            raise HTTPException(415, refusal, {"Accept-Encoding": "identity"})
        limit = self.limits.file_bytes
        size = int(request.headers.get("content-length", limit))  # uvicorn accepts digits only
        if size > limit:
            raise self._too_large()
        if self._requests >= self.limits.requests or self._held + size > self.limits.held_bytes:
            raise _busy("too many concurrent requests")
        self._requests += 1
        self._held += size
        try:
            yield await self._read(request, size)
        finally:
            self._requests -= 1
            self._held -= size

    async def _read(self, request: Request, max_bytes: int) -> bytes:
        chunks: list[bytes] = []
        seconds = self.limits.body_seconds
        left = max_bytes  # a chunked body can be longer than its Content-Length
        try:
            async with asyncio.timeout(seconds):
                async for chunk in request.stream():
                    left -= len(chunk)
                    if left < 0:
                        raise self._too_large()
                    chunks.append(chunk)
        except TimeoutError:
            # Without waiting for the rest.
            close = {"Connection": "close"}
            raise HTTPException(408, f"the file took more than {seconds:g} s", close) from None
        return b"".join(chunks)

    def _too_large(self) -> HTTPException:
        return HTTPException(413, f"the file exceeds the limit of {self.limits.file_bytes} bytes")

    async def result(
        self, threads: ThreadPoolExecutor, work: Callable[[bytes], T], content: bytes
    ) -> T:
        """Run in a thread; after the time limit it is cancelled, or its result is dropped.

        Raises:
            HTTPException: 503.
        """
        seconds = self.limits.answer_seconds
        try:
            async with asyncio.timeout(seconds):
                return await asyncio.get_running_loop().run_in_executor(threads, work, content)
        except TimeoutError:
            raise _busy(f"no result within {seconds:g} s") from None

    def predict(self, content: bytes) -> Prediction:
        one = self.predictor.decode(content, UPLOAD)
        with self._networks:
            return self.predictor.predict_batch([one])[0]

    def network_input(self, content: bytes) -> NDArray[np.uint8]:
        return self.predictor.preprocess(self.predictor.decode(content, UPLOAD))

    def heatmap(self, content: bytes) -> NDArray[np.uint8]:
        return self._explainer.overlay(self.network_input(content))

    @cached_property
    def _explainer(self) -> "Explainer":
        with extra("train", "a heatmap"):
            from cxr.inference.gradcam import Explainer  # only here: it imports TensorFlow

        return Explainer(self.predictor.trained, self.predictor.members)

    def model(self) -> Model:
        files = [self.predictor.trained / f"{name}.keras" for name in self.predictor.members]
        return Model(
            variant=self.predictor.variant,
            threshold=self.predictor.threshold,
            ood_false_positive_rate=self.predictor.settings.ood.false_positive_rate,
            explains=all(file.is_file() for file in files) and find_spec("keras") is not None,
            max_bytes=self.limits.file_bytes,
            max_requests=self.limits.requests,
            seconds=self.limits.answer_seconds,
            suffixes=sorted(SUFFIXES),
        )

    def close(self) -> None:
        """Cancel all waiting work."""
        for threads in (self.predicting, self.explaining):
            threads.shutdown(wait=False, cancel_futures=True)


def _busy(detail: str) -> HTTPException:
    return HTTPException(503, detail, {"Retry-After": str(RETRY_SECONDS)})


def _png(image: NDArray[np.uint8]) -> Response:
    content = iio.imwrite("<bytes>", image, extension=".png", plugin="pillow")
    return Response(content, media_type="image/png")


# --- the application -----------------------------------------------------------------------------


def application(
    models: Path, variant: str = "", hosts: Sequence[str] = LOOPBACK, limits: Limits = LIMITS
) -> FastAPI:
    """The web page and its API.

    Args:
        models: folder of exported models.
        variant: name; empty: the recommended variant.
        hosts: allowed values of the Host header; `*`: any.
        limits: limits of requests.

    Raises:
        CxrError: as `Service`.
    """
    service = Service(models, variant, limits)
    Content = Annotated[bytes, Depends(service.content)]  # noqa: N806

    @asynccontextmanager
    async def alive(_: FastAPI) -> AsyncIterator[None]:
        yield
        service.close()

    app = FastAPI(
        title="Pneumonia on chest radiographs",
        summary="Not for clinical use.",
        description="The predictions of `cxr predict` over HTTP. Files are processed in memory and "
        "not stored.",
        version=API_VERSION,
        docs_url=None,  # these pages load scripts from other sites
        redoc_url=None,
        lifespan=alive,
        responses=ANY_ERROR,
    )
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(hosts), www_redirect=False)
    app.add_middleware(_HttpRules)
    app.add_exception_handler(ImageError, _refused(422))
    app.add_exception_handler(CxrError, _refused(501))
    app.add_exception_handler(ClientDisconnect, _refused(400))  # nobody receives it

    @app.post("/api/predict", responses=FILE_ERRORS, openapi_extra=BODY)
    async def predict(content: Content) -> Prediction:
        """Predict NORMAL or PNEUMONIA for a radiograph, at the operating point."""
        return await service.result(service.predicting, service.predict, content)

    @app.post("/api/image", responses=IMAGE | FILE_ERRORS, **GIVES_IMAGE)
    async def image(content: Content) -> Response:
        """The preprocessed radiograph, as the network receives it."""
        return _png(await service.result(service.predicting, service.network_input, content))

    @app.post("/api/explain", responses=IMAGE | FILE_ERRORS | NO_EXPLAINER, **GIVES_IMAGE)
    async def explain(content: Content) -> Response:
        """Grad-CAM heatmap for PNEUMONIA over the preprocessed radiograph."""
        return _png(await service.result(service.explaining, service.heatmap, content))

    @app.get("/api/model")
    async def model() -> Model:
        """The served model and the limits of requests."""
        return service.model()

    @app.get("/card", include_in_schema=False)
    async def card() -> HTMLResponse:
        return HTMLResponse(service.card)

    @app.get("/", include_in_schema=False)
    async def page() -> FileResponse:
        return FileResponse(WEB / "index.html")

    @app.get("/page/style.css", include_in_schema=False)
    async def style() -> FileResponse:
        return FileResponse(STYLE)

    app.mount("/page", StaticFiles(directory=WEB))
    return app


class _HttpRules:
    """Adds `HEADERS` to responses; responds to HEAD as to GET (the server drops the body)."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        if scope.get("method") == "HEAD":
            scope = {**scope, "method": "GET"}
        await self.app(scope, receive, send_with_headers)


def _refused(status: int) -> Callable[[Request, Exception], Response]:
    return lambda _, error: JSONResponse({"detail": str(error)}, status)


def _card(models: Path) -> str:
    """The model card as HTML.

    Raises:
        CxrError: it is missing or cannot be read.
    """
    file = models / "model_card.md"
    try:
        return html_page(file.read_text(encoding="utf-8"), served=True)
    except (OSError, ValueError) as error:
        raise CxrError(f"{file} cannot be read ({error}); run `dvc repro export`") from error


# --- the server ----------------------------------------------------------------------------------


def serve(host: str, port: int, models: Path, variant: str = "") -> None:
    """Serve the page until Ctrl-C; the address is printed once it accepts connections.

    Args:
        host: name or address of this machine to listen on.
        port: 0: any free port.
        models: folder of exported models.
        variant: name; empty: the recommended variant.

    Raises:
        CxrError: as `listen` and `application`.
    """
    with listen(host, port) as listener:
        address, port = listener.getsockname()[:2]
        name = f"[{host}]" if ":" in host else host
        is_any = ipaddress.ip_address(address).is_unspecified
        app = application(models, variant, ("*",) if is_any else (*LOOPBACK, name.lower()))
        if not ipaddress.ip_address(address).is_loopback:
            print(NETWORK_WARNING, file=sys.stderr)
        print(f"http://{name}:{port}/ (Ctrl-C to stop). Not for clinical use.", flush=True)
        with suppress(KeyboardInterrupt):  # which uvicorn raises again after it has ended
            server(app).run(sockets=[listener])


NETWORK_WARNING = (
    "WARNING: everyone who can reach this machine over the network can use the page; there is no "
    "encryption and no login"
)


def listen(host: str, port: int) -> socket.socket:
    """A listening socket.

    Raises:
        CxrError: the port is in use or not permitted, or the host is not this machine.
    """
    try:
        if not 0 <= port < 2**16:
            raise ValueError("ports are 0 to 65535")
        family, *_, address = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0]
        return socket.create_server((address[0], port), family=family)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise CxrError(
            f"cannot listen on {host}, port {port}: {reason}; set --host or --port"
        ) from error


def server(app: FastAPI) -> uvicorn.Server:
    """A server that logs errors of the code, but nothing about requests."""
    return uvicorn.Server(
        uvicorn.Config(
            app,
            http="h11",
            ws="none",
            access_log=False,
            log_level="error",
            server_header=False,
            proxy_headers=False,
            limit_concurrency=MAX_CONNECTIONS,
            timeout_graceful_shutdown=SHUTDOWN_SECONDS,
        )
    )
