"""A server on this machine that stands in for a publisher's, and can misbehave."""

import io
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any

Tree = dict[str, bytes]


@dataclass
class Site:
    """A file on a server that can misbehave; `ranges` notes what each request asked for."""

    data: bytes
    broken: list[int] = field(default_factory=list)  # statuses of the first answers
    ranged: bool = True
    cut_at: int | None = None  # bytes after which the first full answer breaks off
    stall_at: int | None = None  # bytes after which every full answer comes to a halt
    length: bool = True  # tell the length of the body
    ranges: list[str | None] = field(default_factory=list)


class Handler(BaseHTTPRequestHandler):
    """Serve one `Site`."""

    def __init__(self, site: Site, *args: Any) -> None:
        self.site = site
        super().__init__(*args)

    def do_GET(self) -> None:
        """Answer as the site is told to misbehave."""
        asked = self.headers.get("Range")
        self.site.ranges.append(asked)
        start = int(asked.split("=")[1].rstrip("-")) if asked and self.site.ranged else 0
        if self.headers["Accept-Encoding"] != "identity":
            self.answer(406, b"ranges count the bytes of the file itself")
        elif self.site.broken:
            self.answer(self.site.broken.pop(0), b"sorry")
        elif start >= len(self.site.data):
            self.answer(416, b"")
        else:
            self.answer(206 if asked and self.site.ranged else 200, self.site.data[start:])

    def answer(self, status: int, body: bytes) -> None:
        """Send a whole answer, or break off if this is the one to be cut."""
        self.send_response(status)
        if self.site.length:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if status < 300:
            body, self.site.cut_at = body[: self.site.cut_at], None
        if status < 300 and self.site.stall_at is not None:
            self.wfile.write(body[: self.site.stall_at])
            self.wfile.flush()
            time.sleep(5)  # longer than any test waits
        else:
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Keep the tests quiet."""


def zipped(tree: Tree) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in tree.items():
            archive.writestr(name, data)
    return buffer.getvalue()


Serve = Callable[..., Site]
