"""A server on this machine that stands in for a publisher's, and can misbehave."""

import io
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from typing import Any

Tree = dict[str, bytes]


@dataclass
class Site:
    """A file on a server that can misbehave."""

    data: bytes
    status: int = 200
    cut_at: int | None = None  # bytes after which an answer breaks off
    length: bool = True  # send the length of the body
    requests: int = 0  # so far


class Handler(BaseHTTPRequestHandler):
    """Serve one `Site`."""

    def __init__(self, site: Site, *args: Any) -> None:
        self.site = site
        super().__init__(*args)

    def do_GET(self) -> None:
        """Answer with all that the site gives."""
        self.site.requests += 1
        self.send_response(self.site.status)
        if self.site.length:
            self.send_header("Content-Length", str(len(self.site.data)))
        self.end_headers()
        self.wfile.write(self.site.data[: self.site.cut_at])

    def log_message(self, *_: object) -> None:
        """Keep the tests quiet."""


def zipped(tree: Tree) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in tree.items():
            archive.writestr(name, data)
    return buffer.getvalue()


Serve = Callable[..., Site]
