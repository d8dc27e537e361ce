"""A local HTTP server of files that can misbehave as mirrors do. For tests of downloads."""

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Mirror:
    """What a server holds, how it behaves, and what it was asked."""

    files: dict[str, bytes]
    ranges: bool = True  # False: Range is ignored, as some servers do
    cut_after: int = 0  # bytes of body after which the connection breaks; 0: never
    down: bool = False  # answers 503
    asked: list[tuple[str, str]] = field(default_factory=list)  # (path, Range header) of every request
    url: str = ""


@contextmanager
def serving(*mirrors: Mirror) -> Iterator[None]:
    """Each mirror on a port of its own, its `url` filled in."""
    servers = []
    for mirror in mirrors:
        server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(mirror))
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        mirror.url = f"http://127.0.0.1:{server.server_address[1]}/"
        servers.append(server)
    try:
        yield
    finally:
        for server in servers:
            server.shutdown()
            server.server_close()


def _handler(mirror: Mirror) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = self.headers.get("Range", "")
            mirror.asked.append((self.path, wanted))
            content = mirror.files.get(self.path.lstrip("/"))
            if mirror.down or content is None:
                self.send_error(503 if mirror.down else 404)
                return
            match = re.fullmatch(r"bytes=(\d+)-", wanted) if mirror.ranges else None
            start = int(match[1]) if match else 0
            if start and start >= len(content):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(content)}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(206 if match else 200)
            if match:
                self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            body = content[start:]
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: mirror.cut_after] if mirror.cut_after else body)
            self.close_connection = True

        def log_message(self, *args: object) -> None:
            pass

    return Handler
