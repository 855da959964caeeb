"""A local server that replaces a publisher's, with configurable errors."""

import io
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from typing import Any

Tree = dict[str, bytes]


@dataclass
class Site:
    """A file on a server, and errors of the server."""

    data: bytes
    status: int = 200
    cut_at: int | None = None  # bytes after which a response ends early
    length: bool = True  # whether to send Content-Length
    requests: int = 0  # received so far


class Handler(BaseHTTPRequestHandler):
    """Serve one `Site`."""

    def __init__(self, site: Site, *args: Any) -> None:
        self.site = site
        super().__init__(*args)

    def do_GET(self) -> None:
        """Send the file of the site."""
        self.site.requests += 1
        self.send_response(self.site.status)
        if self.site.length:
            self.send_header("Content-Length", str(len(self.site.data)))
        self.end_headers()
        self.wfile.write(self.site.data[: self.site.cut_at])

    def log_message(self, *_: object) -> None:
        """Print nothing."""


def zipped(tree: Tree) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in tree.items():
            archive.writestr(name, data)
    return buffer.getvalue()


Serve = Callable[..., Site]
