"""Records posted as JSON to an HTTP server."""

from __future__ import annotations

import base64
import contextlib
import http.client
import ssl
from dataclasses import dataclass, field

import msgspec

from edge_ad_runtime.events import PartEvent
from edge_ad_runtime.sinks.base import FIRST_RETRY_S, LAST_RETRY_S, QueuedSink

# Of an answer's body, which nobody reads; a longer one costs the connection.
_BODY_LIMIT = 65_536
# Of the refusals (4xx), those that may pass (RFC 9110 sections 15.5.9, RFC 8470 section 5.2, RFC 6585 section 4).
_TEMPORARY = frozenset({408, 425, 429})


@dataclass(frozen=True)
class WebhookConfig:
    """A server and what it gets.

    ``target`` is path and query as sent. ``batch`` above 1 sends arrays of up to so many records; ``rejects_only`` leaves
    out what passed; ``timeout_s`` is for connecting and for each wait for an answer.
    """

    secure: bool
    host: str
    port: int | None
    # All three may be or hold a secret.
    target: str = field(repr=False)
    user: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)
    rejects_only: bool = False
    batch: int = 1
    timeout_s: float = 10.0

    @property
    def name(self) -> str:
        """Scheme and host: many services put their secret into the path."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if self.port is None else f":{self.port}"
        return f"{'https' if self.secure else 'http'}://{host}{port}/" + ("***" if self.target != "/" else "")

    def open(self) -> Webhook:
        return Webhook(self)


class Webhook(QueuedSink[PartEvent]):
    """Posts each record, or arrays of them, until the server takes it (2xx).

    No answer, an answer of 5xx, 408, 425 or 429 is tried again with growing pauses; any other answer means that it will
    never be taken, and it is lost. A record whose answer was lost arrives twice.
    """

    def __init__(self, config: WebhookConfig) -> None:
        super().__init__(config.name)
        self._config = config
        self._connection: http.client.HTTPConnection | None = None
        self._headers = {"Content-Type": "application/json", "User-Agent": "edge-ad"}
        if config.user is not None:
            pair = f"{config.user}:{config.password or ''}".encode()
            self._headers["Authorization"] = "Basic " + base64.b64encode(pair).decode()
        self._start()

    def write(self, event: PartEvent) -> None:
        if event.verdict != "pass" or not self._config.rejects_only:
            self._put(event)

    def _run(self) -> None:
        encode = msgspec.json.Encoder().encode
        batch = self._config.batch
        while events := self._take(batch):
            self._send(encode(events if batch > 1 else events[0]), len(events))

    def _send(self, body: bytes, count: int) -> None:
        backoff = FIRST_RETRY_S
        while not self._over:
            try:
                status = self._post(body)
            except (OSError, http.client.HTTPException) as error:
                self._hang_up()
                why = str(error) or type(error).__name__
            else:
                if 200 <= status < 300:
                    self._deliver(count)
                    return
                why = f"the server answers {status}"
                if status < 500 and status not in _TEMPORARY:
                    self._lose(count, why)
                    return
            self._trouble(why)
            self._pause(backoff)
            backoff = min(2 * backoff, LAST_RETRY_S)

    def _post(self, body: bytes) -> int:
        """The status of the answer.

        Raises:
            OSError, http.client.HTTPException: there is no answer.
        """
        if self._connection is not None:
            try:
                return self._request(self._connection, body)
            except TimeoutError:
                raise
            except (OSError, http.client.HTTPException):
                # Servers hang up on connections that idle; that alone is no failure.
                self._hang_up()
        self._connection = self._connect()
        return self._request(self._connection, body)

    def _request(self, connection: http.client.HTTPConnection, body: bytes) -> int:
        connection.request("POST", self._config.target, body, self._headers)
        response = connection.getresponse()
        with contextlib.suppress(OSError, http.client.HTTPException):
            response.read(_BODY_LIMIT)
        if not response.isclosed():
            self._hang_up()
        return response.status

    def _connect(self) -> http.client.HTTPConnection:
        c = self._config
        if c.secure:
            context = ssl.create_default_context()
            return http.client.HTTPSConnection(c.host, c.port, timeout=c.timeout_s, context=context)
        return http.client.HTTPConnection(c.host, c.port, timeout=c.timeout_s)

    def _hang_up(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _release(self) -> None:
        self._hang_up()
