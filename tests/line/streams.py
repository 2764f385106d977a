"""A network camera of our own: MJPEG over HTTP, which can hang up and come back."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import cv2
import numpy as np
import numpy.typing as npt


class MjpegCamera:
    """Sends one image over and over at 50 frames a second, on a port that stays the same after a restart."""

    def __init__(self, image: npt.NDArray[np.uint8]) -> None:
        good, jpeg = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
        assert good
        self.jpeg = jpeg.tobytes()
        self.port = 0
        self.connections = 0
        self.start()

    def start(self) -> None:
        outer = self
        # One for each start: a connection of before must not live on.
        off = self._off = threading.Event()

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.connections += 1
                self.send_response(200)
                self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
                self.end_headers()
                head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(outer.jpeg)}\r\n\r\n"
                with contextlib.suppress(OSError):
                    while not off.is_set():
                        self.wfile.write(head.encode() + outer.jpeg + b"\r\n")
                        time.sleep(0.02)
                    self.connection.shutdown(socket.SHUT_RDWR)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self.port = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    def stop(self) -> None:
        """Hang up on everyone and refuse new connections."""
        if not self._off.is_set():
            self._off.set()
            self._server.shutdown()
            self._server.server_close()
            self._thread.join()
