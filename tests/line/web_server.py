"""An HTTP server of our own that takes records, refuses, fails, hangs, goes away and comes back."""

from __future__ import annotations

import contextlib
import socket
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass(frozen=True)
class Request:
    path: str
    headers: dict[str, str]
    body: bytes


class WebServer:
    """Answers with :attr:`status`; ``hang`` answers only when it is set again, ``drop`` hangs up without an answer."""

    def __init__(self) -> None:
        self.status: int | str = 200
        self.seen: list[Request] = []
        self.accepted: list[Request] = []
        self.connections = 0
        # Closes a connection after each answer without having said so.
        self.impolite = False
        self.port = 0
        self._hanging = threading.Event()
        self._open: list[socket.socket] = []
        self.start()

    def start(self) -> None:
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                outer.connections += 1
                outer._open.append(self.request)
                super().setup()

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                request = Request(self.path, dict(self.headers), body)
                outer.seen.append(request)
                status = outer.status
                if status == "hang":
                    outer._hanging.wait(30)
                if isinstance(status, str):
                    self.close_connection = True
                    return
                if 200 <= status < 300:
                    outer.accepted.append(request)
                self.send_response(status)
                self.send_header("Content-Length", "2")
                self.end_headers()
                self.wfile.write(b"ok")
                self.close_connection = outer.impolite

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    def stop(self) -> None:
        """Refuse connections, and hang up on everyone."""
        if self._thread.is_alive():
            self._hanging.set()
            self._server.shutdown()
            self._server.server_close()
            self._thread.join()
            for connection in self._open:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
            self._open.clear()
            self._hanging.clear()
