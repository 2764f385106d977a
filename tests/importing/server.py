"""A real HTTP server in a thread, with the faults of real ones."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Behaviour:
    """What the server does; ``asked`` collects the Range headers of the requests, in their order.

    Args:
        content: the file at every address but ``/missing``.
        ranges: whether Range is heeded.
        cuts: after how many bytes of the answer the connection is cut, for the first answers.
        errors: statuses of the first answers.
        length: whether Content-Length is sent.
    """

    content: bytes
    ranges: bool = True
    cuts: list[int] = field(default_factory=list)
    errors: list[int] = field(default_factory=list)
    length: bool = True
    asked: list[str | None] = field(default_factory=list)


@contextmanager
def serve(behaviour: Behaviour) -> Iterator[str]:
    """The address of a running server."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = self.headers.get("Range")
            behaviour.asked.append(wanted)
            if behaviour.errors:
                self.send_error(behaviour.errors.pop(0))
                return
            if self.path == "/missing":
                self.send_error(404)
                return
            start, total = 0, len(behaviour.content)
            if wanted is not None and behaviour.ranges:
                start = int(wanted.removeprefix("bytes=").removesuffix("-"))
                if start >= total:
                    self.send_response(416)
                    self.send_header("Content-Range", f"bytes */{total}")
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
            else:
                self.send_response(200)
            if behaviour.length:
                self.send_header("Content-Length", str(total - start))
            self.end_headers()
            body = behaviour.content[start:]
            self.wfile.write(body[: behaviour.cuts.pop(0)] if behaviour.cuts else body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
