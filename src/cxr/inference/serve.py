"""The local page and its endpoints: a radiograph in, an answer out, over HTTP. Nothing is kept.

The body of a request is the file itself: no name comes with it, and no temporary file is made. What
a request may take is limited: bytes, seconds, and how many there are at once.

A page of another site can neither ask nor read: the types of body that are taken make browsers ask
for permission first, which is never given, and names of hosts other than the server's are refused
(DNS rebinding).
"""

import asyncio
import ipaddress
import socket
import sys
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import h11
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
from uvicorn.protocols.http.h11_impl import H11Protocol

from cxr.data.images import MAX_PIXELS, ImageError
from cxr.errors import CxrError, extra
from cxr.inference.predict import SUFFIXES, ImagePrediction, Predictor
from cxr.inference.radiograph import MOST_BYTES
from cxr.reporting.document import html_page
from cxr.reporting.templates import STYLE

if TYPE_CHECKING:
    from cxr.inference.gradcam import Explainer


Found = TypeVar("Found")

WEB = Path(__file__).with_name("web")  # the page
LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
TYPES = (
    *("application/octet-stream", "application/dicom"),
    *("image/jpeg", "image/jpg", "image/png"),  # jpg is no registered type, but is sent
)
UPLOAD = Path("the file")  # what errors call it
DECODERS = 2  # threads; each may hold a decoded image of `MOST_PIXELS`
CONNECTIONS = 256  # at once, of those that ask and those that are silent
SILENT_SECONDS = 10  # until a connection has to have asked for something
SHUTDOWN_SECONDS = 5  # for answers that are under way
API_VERSION = "1"
RETRY_SECONDS = 5  # that a client is told to wait when the server is busy

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
    """What is more, or takes longer, is refused.

    Attributes:
        file_bytes: of one body; by default the largest image that is decoded, at 16 bits.
        held_bytes: of all bodies in memory.
        requests: with a body, being read, waiting or answered.
        body_seconds: until a body is there.
        answer_seconds: from then until the answer.
    """

    file_bytes: int = MOST_BYTES
    held_bytes: int = 8 * MAX_PIXELS
    requests: int = 100
    body_seconds: float = 30
    answer_seconds: float = 60


LIMITS = Limits()

# --- what the endpoints give, as /openapi.json describes it -------------------------------------


class Prediction(BaseModel):
    """What the network says of one radiograph. Not for clinical use."""

    probability: float = Field(ge=0, le=1, description="Of PNEUMONIA, as the network gives it.")
    decision: Literal["NORMAL", "PNEUMONIA"] = Field(
        description="PNEUMONIA where the probability is not below the threshold."
    )
    confidence: float = Field(
        ge=0,
        le=1,
        description="Calibrated probability that the decision is right, where as many patients "
        "are ill as in validation.",
    )
    unfamiliarity: float = Field(
        ge=0,
        description="Distance from the training images; above 1 there is a warning about it.",
    )
    warnings: list[str] = Field(description="Why not to trust the answer.")
    variant: str = Field(description="Name of the network.")
    threshold: float = Field(ge=0, le=1, description="The operating point.")


class Model(BaseModel):
    """What answers, and within which limits."""

    variant: str = Field(description="Name of the network.")
    threshold: float = Field(ge=0, le=1, description="The operating point.")
    false_alarms: dict[str, float] = Field(
        description="Share of the images of a split that the warning about unfamiliar ones hits."
    )
    explains: bool = Field(description="Whether /api/explain has the models that it needs.")
    most_bytes: int = Field(description="Of a file.")
    most_requests: int = Field(description="At once; more have to wait and try again.")
    seconds: float = Field(description="Within which there is an answer, or an error.")
    suffixes: list[str] = Field(
        description="Of files in a folder that are taken whatever they begin with; others are "
        "taken if they begin as JPEG, PNG or DICOM."
    )


class Problem(BaseModel):
    """Why there is no answer."""

    detail: str


def _problem(description: str) -> dict[str, Any]:
    return {"model": Problem, "description": description}


OF_EACH: dict[int | str, dict[str, Any]] = {
    400: {
        "description": "The request names a host that is not this server.",
        "content": {"text/plain": {"schema": {"type": "string"}}},
    }
}
OF_A_FILE: dict[int | str, dict[str, Any]] = {
    408: _problem("The body did not arrive in time."),
    413: _problem("The file is too large."),
    415: _problem(f"The type of the body is none of {', '.join(TYPES)}, or it has an encoding."),
    422: _problem("The file is no image that can be read."),
    503: _problem("Too much to do, or no answer in time: try again later.")
    | {"headers": {"Retry-After": {"description": "Seconds.", "schema": {"type": "integer"}}}},
}
FILE = {"schema": {"type": "string", "format": "binary"}}
BODY = {
    "requestBody": {
        "description": "The bytes of a JPEG, PNG or DICOM file; they tell which it is, not the "
        "type.",
        "required": True,
        "content": dict.fromkeys(TYPES, FILE),
    }
}
PICTURE: dict[int | str, dict[str, Any]] = {
    200: {"description": "A square picture.", "content": {"image/png": FILE}}
}
UNEXPLAINED: dict[int | str, dict[str, Any]] = {
    501: _problem("The trained Keras models, which this needs, are not there.")
}


# --- from a request to its answer ----------------------------------------------------------------


class Service:
    """One variant behind the endpoints: decoded by some threads, seen by the networks in turn.

    Args:
        models: folder that the stage `export` wrote.
        variant: name; empty: the recommended one.
        limits: of a request.

    Raises:
        CxrError: as `Predictor`; the model card is missing.
    """

    def __init__(self, models: Path, variant: str, limits: Limits) -> None:
        self.predictor = Predictor(models, variant)
        self.card = _card(models)
        self.limits = limits
        self._keras = [self.predictor.trained / f"{name}.keras" for name in self.predictor.members]
        self._answering = ThreadPoolExecutor(DECODERS)
        self._explaining = ThreadPoolExecutor(1)  # the one thread that knows TensorFlow
        self._networks = threading.Lock()  # OpenVINO's are for one thread at a time
        self._requests = 0
        self._held = 0

    async def content(self, request: Request) -> AsyncIterator[bytes]:
        """The body, which counts as held until its answer is done.

        Raises:
            HTTPException: 408, 413, 415 or 503.
        """
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind not in TYPES:
            raise HTTPException(415, f"send the file as {' or '.join(TYPES)}")
        encoding = request.headers.get("content-encoding", "identity").strip().lower()
        if encoding != "identity":
            refusal = "send the file as it is: a body with Content-Encoding is not unpacked"
            raise HTTPException(415, refusal, {"Accept-Encoding": "identity"})
        most = self.limits.file_bytes
        size = int(request.headers.get("content-length", most))  # uvicorn wants digits
        if size > most:
            raise self._too_large()
        if self._requests >= self.limits.requests or self._held + size > self.limits.held_bytes:
            raise _busy("too many requests at once")
        self._requests += 1
        self._held += size
        try:
            yield await self._read(request, size)
        finally:
            self._requests -= 1
            self._held -= size

    async def _read(self, request: Request, most: int) -> bytes:
        chunks: list[bytes] = []
        seconds = self.limits.body_seconds
        left = most  # also of a body in chunks that tells of fewer bytes than it sends
        try:
            async with asyncio.timeout(seconds):
                async for chunk in request.stream():
                    left -= len(chunk)
                    if left < 0:
                        raise self._too_large()
                    chunks.append(chunk)
        except TimeoutError:
            # The rest is not waited for, either.
            close = {"Connection": "close"}
            raise HTTPException(408, f"the file took more than {seconds:g} s", close) from None
        return b"".join(chunks)

    def _too_large(self) -> HTTPException:
        return HTTPException(413, f"the file has more than {self.limits.file_bytes} bytes")

    async def prediction(self, content: bytes) -> Prediction:
        answer = await self._in_time(self._answering, self._answer, content)
        return Prediction(
            **asdict(answer), variant=self.predictor.variant, threshold=self.predictor.threshold
        )

    async def picture(self, content: bytes) -> bytes:
        return await self._in_time(self._answering, self._as_seen, content)

    async def overlay(self, content: bytes) -> bytes:
        return await self._in_time(self._explaining, self._explained, content)

    async def _in_time(
        self, threads: ThreadPoolExecutor, work: Callable[[bytes], Found], content: bytes
    ) -> Found:
        """What does not come in time is not begun, or its result is dropped."""
        seconds = self.limits.answer_seconds
        try:
            async with asyncio.timeout(seconds):
                return await asyncio.get_running_loop().run_in_executor(threads, work, content)
        except TimeoutError:
            raise _busy(f"no answer within {seconds:g} s") from None

    def _answer(self, content: bytes) -> ImagePrediction:
        one = self.predictor.decoded(content, UPLOAD)
        with self._networks:
            return self.predictor.answers([one])[0]

    def _prepared(self, content: bytes) -> NDArray[np.uint8]:
        return self.predictor.prepared(self.predictor.decoded(content, UPLOAD))

    def _as_seen(self, content: bytes) -> bytes:
        return _png(self._prepared(content))

    def _explained(self, content: bytes) -> bytes:
        return _png(self._explainer.overlay(self._prepared(content)))

    @cached_property
    def _explainer(self) -> "Explainer":
        with extra("train", "an explanation"):
            from cxr.inference.gradcam import Explainer  # only when asked: it imports TensorFlow

        return Explainer(self.predictor.trained, self.predictor.members)

    def model(self) -> Model:
        return Model(
            variant=self.predictor.variant,
            threshold=self.predictor.threshold,
            false_alarms=self.predictor.false_alarms,
            explains=all(file.is_file() for file in self._keras) and find_spec("keras") is not None,
            most_bytes=self.limits.file_bytes,
            most_requests=self.limits.requests,
            seconds=self.limits.answer_seconds,
            suffixes=sorted(SUFFIXES),
        )

    def close(self) -> None:
        """Begin nothing more."""
        for threads in (self._answering, self._explaining):
            threads.shutdown(wait=False, cancel_futures=True)


def _busy(detail: str) -> HTTPException:
    return HTTPException(503, detail, {"Retry-After": str(RETRY_SECONDS)})


def _png(picture: NDArray[np.uint8]) -> bytes:
    return iio.imwrite("<bytes>", picture, extension=".png", plugin="pillow")


# --- the application -----------------------------------------------------------------------------


def application(
    models: Path, variant: str = "", hosts: Sequence[str] = LOOPBACK, limits: Limits = LIMITS
) -> FastAPI:
    """The page and its endpoints.

    Args:
        models: folder that the stage `export` wrote.
        variant: name; empty: the recommended one.
        hosts: by which requests may name this server; `*`: any.
        limits: of a request.

    Raises:
        CxrError: the folder is not complete, damaged, or has no such variant.
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
        description="What `cxr predict` says of a file, over HTTP. Files are judged in memory and "
        "not kept.",
        version=API_VERSION,
        docs_url=None,  # these pages load scripts from elsewhere
        redoc_url=None,
        lifespan=alive,
        responses=OF_EACH,
    )
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(hosts), www_redirect=False)
    app.add_middleware(_WithHeaders)
    app.add_middleware(_HeadAsGet)
    app.add_exception_handler(ImageError, _refused(422))
    app.add_exception_handler(CxrError, _refused(501))
    app.add_exception_handler(ClientDisconnect, _refused(400))  # to nobody

    @app.post("/api/predict", responses=OF_A_FILE, openapi_extra=BODY)
    async def predict(content: Content) -> Prediction:
        """NORMAL or PNEUMONIA for a radiograph, at the operating point."""
        return await service.prediction(content)

    @app.post(
        "/api/image",
        response_class=Response,
        responses=PICTURE | OF_A_FILE,
        openapi_extra=BODY,
    )
    async def image(content: Content) -> Response:
        """A radiograph as the network sees it."""
        return Response(await service.picture(content), media_type="image/png")

    @app.post(
        "/api/explain",
        response_class=Response,
        responses=PICTURE | OF_A_FILE | UNEXPLAINED,
        openapi_extra=BODY,
    )
    async def explain(content: Content) -> Response:
        """Where the network sees PNEUMONIA (Grad-CAM), over the radiograph as it sees it."""
        return Response(await service.overlay(content), media_type="image/png")

    @app.get("/api/model")
    async def model() -> Model:
        """Which network answers, and within which limits."""
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


class _WithHeaders:
    """Every answer with `HEADERS`."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_more(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        await self.app(scope, receive, send_more)


class _HeadAsGet:
    """HEAD is answered as GET is, without the body."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "HEAD":
            return await self.app(scope, receive, send)

        async def send_less(message: Message) -> None:
            if message["type"] == "http.response.body":
                message = {**message, "body": b""}
            await send(message)

        return await self.app({**scope, "method": "GET"}, receive, send_less)


def _refused(status: int) -> Callable[[Request, Exception], Response]:
    return lambda _, error: JSONResponse({"detail": str(error)}, status)


def _card(models: Path) -> str:
    """The model card as a page.

    Raises:
        CxrError: it is missing or cannot be read.
    """
    file = models / "model_card.md"
    try:
        return html_page(file.read_text(encoding="utf-8"), served=True)
    except (OSError, ValueError) as error:
        raise CxrError(f"{file} cannot be read: run `dvc repro export` ({error})") from error


# --- the server ----------------------------------------------------------------------------------


def serve(host: str, port: int, models: Path, variant: str = "") -> None:
    """Serve the page until Ctrl-C; the address is printed when it can be opened.

    Args:
        host: name or address of this machine to listen at.
        port: 0: any that is free.
        models: folder that the stage `export` wrote.
        variant: name; empty: the recommended one.

    Raises:
        CxrError: as `listen` and `application`.
    """
    with listen(host, port) as listener:
        address, port = listener.getsockname()[:2]
        name = f"[{host}]" if ":" in host else host
        is_any = ipaddress.ip_address(address).is_unspecified
        app = application(models, variant, ("*",) if is_any else (*LOOPBACK, name.lower()))
        if not ipaddress.ip_address(address).is_loopback:
            print(EXPOSED, file=sys.stderr)
        print(f"http://{name}:{port}/ (Ctrl-C ends it). Not for clinical use.", flush=True)
        with suppress(KeyboardInterrupt):  # which uvicorn raises again after it has ended
            server(app).run(sockets=[listener])


EXPOSED = (
    "WARNING: everyone who reaches this machine by network can use the page, and what is sent to "
    "it is not encrypted; there is no login"
)


def listen(host: str, port: int) -> socket.socket:
    """A socket that is bound, so that nothing else can take its place.

    Raises:
        CxrError: the port is taken or not permitted, or the host is not this machine.
    """
    try:
        if not 0 <= port < 2**16:
            raise ValueError("a port is a number from 0 to 65535")
        family, *_, address = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0]
        return socket.create_server((address[0], port), family=family)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise CxrError(
            f"cannot listen at {host}, port {port}: {reason}; name others with --host, --port"
        ) from error


def server(app: FastAPI) -> uvicorn.Server:
    """Runs an application; logs errors of its code alone, nothing of requests."""
    return uvicorn.Server(
        uvicorn.Config(
            app,
            http=_Impatient,
            ws="none",
            access_log=False,
            log_level="error",
            server_header=False,
            proxy_headers=False,
            limit_concurrency=CONNECTIONS,
            timeout_graceful_shutdown=SHUTDOWN_SECONDS,
        )
    )


class _Impatient(H11Protocol):
    """Closes connections that are silent, or slow to ask, for which uvicorn would wait for ever."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._look_again()

    def _look_again(self) -> None:
        self.loop.call_later(SILENT_SECONDS, self._close_if_silent, self.cycle)

    def _close_if_silent(self, latest: object) -> None:
        """`latest`: what it had asked for when this was planned."""
        if self.transport.is_closing():
            return
        if self.conn.their_state is h11.IDLE and self.cycle is latest:
            self.transport.close()
        else:
            self._look_again()
