"""Records to an MQTT broker, with paho-mqtt.

=================  ========  ==============================================================
``PREFIX/parts``             each part's record
``PREFIX/state``   retained  :class:`LineState`, at most once a second
``PREFIX/status``  retained  ``online``; ``offline`` at the end, or by the broker as the last will
=================  ========  ==============================================================

The broker speaks MQTT 3.1.1 or newer. Sessions are clean: what the broker has not acknowledged is kept here and published
again after a reconnection.
"""

from __future__ import annotations

import os
import select
import ssl
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
from msgspec import Meta

from edge_ad_runtime.errors import InputError, MissingExtra
from edge_ad_runtime.events import PartEvent
from edge_ad_runtime.sinks.base import FIRST_RETRY_S, LAST_RETRY_S, QueuedSink

if TYPE_CHECKING:
    from paho.mqtt.client import Client, ConnectFlags
    from paho.mqtt.properties import Properties
    from paho.mqtt.reasoncodes import ReasonCode

# A silent broker is noticed within twice this time, a machine without power by the broker within 1.5 times.
KEEPALIVE_S = 10
STATE_INTERVAL_S = 1.0
# Published and not yet acknowledged, as many as paho has under way by default.
_WINDOW = 20
# How often a connection that idles is looked after.
_TICK_S = 1.0


class LineState(msgspec.Struct, frozen=True, kw_only=True):
    """The latest part and the counts since the sink was opened."""

    parts: Annotated[int, Meta(description="Parts so far.")]
    passed: Annotated[int, Meta(description="Of these, parts that passed.")]
    rejected: Annotated[int, Meta(description="Of these, rejects.")]
    faults: Annotated[int, Meta(description="Of these, faults.")]
    lost_records: Annotated[int, Meta(description="Records that did not and will not arrive at this broker.")]
    last: Annotated[PartEvent, Meta(description="The latest part.")]


@dataclass(frozen=True)
class MqttConfig:
    """A broker and what is told to it. ``ca`` is for brokers whose certificate no public authority signed,
    ``certificate`` and ``key`` for those that want one from us; PEM files, with ``secure`` only."""

    secure: bool
    host: str
    port: int
    prefix: str
    client_id: str
    user: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)
    qos: int = 1
    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None

    @property
    def name(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'mqtts' if self.secure else 'mqtt'}://{host}:{self.port}/{self.prefix}"

    def open(self) -> MqttSink:
        return MqttSink(self)

    def tls(self) -> ssl.SSLContext | None:
        """
        Raises:
            InputError: a certificate or key cannot be read.
        """
        if not self.secure:
            return None
        try:
            context = ssl.create_default_context(cafile=self.ca)
            if self.certificate is not None:
                # Without a password callback, OpenSSL would ask for one at the terminal.
                context.load_cert_chain(self.certificate, self.key, password=_no_password)
        except (OSError, ValueError) as error:
            files = ", ".join(str(p) for p in (self.ca, self.certificate, self.key) if p is not None)
            why = getattr(error, "strerror", None) or getattr(error, "reason", None) or error
            raise InputError(f"{self.name}: {files}: cannot be used ({why})") from error
        return context


def _no_password() -> str:
    raise ValueError("the key is encrypted; store it without a password, readable by this user only")


class MqttSink(QueuedSink[PartEvent]):
    """Publishes each record.

    With ``qos`` 1 and 2 a record counts as delivered when the broker has acknowledged it, and is published again if
    the connection breaks before (so it may arrive twice); with 0 when it was handed to the network.
    """

    def __init__(self, config: MqttConfig) -> None:
        """Start connecting; does not wait for the broker.

        Raises:
            MissingExtra: paho-mqtt is not installed.
            InputError: a certificate or key cannot be read.
        """
        try:
            import paho.mqtt.client  # noqa: F401
        except ImportError as error:
            raise MissingExtra("paho-mqtt", "mqtt", "MQTT") from error
        super().__init__(config.name)
        self._config = config
        self._tls = config.tls()
        self._encode = msgspec.json.Encoder().encode
        self._count = {"pass": 0, "reject": 0, "fault": 0}
        self._last: PartEvent | None = None
        self._state_waits = False
        self._state_at = -STATE_INTERVAL_S
        self._under_way: dict[int, PartEvent] = {}
        self._unheard: set[int] = set()
        self._again: deque[PartEvent] = deque()
        self._accepted = False
        self._refusal: str | None = None
        self._event = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._start()

    def write(self, event: PartEvent) -> None:
        with self._changed:
            self._count[event.verdict] += 1
            self._last = event
            self._state_waits = True
        self._put(event)

    def _wake(self) -> None:
        if not self._ended:
            os.eventfd_write(self._event, 1)

    def _release(self) -> None:
        os.close(self._event)

    # The thread: connection after connection

    def _run(self) -> None:
        backoff = FIRST_RETRY_S
        while not self._done():
            self._accepted, self._refusal = False, None
            self._unheard.clear()
            began = time.monotonic()
            try:
                if self._serve(self._connect()):
                    return
                why = self._refusal or "the connection to the broker is lost"
            except (OSError, ValueError) as error:  # ValueError: a host name that cannot be encoded
                why = str(error) or type(error).__name__
            self._again.extendleft(reversed(self._under_way.values()))
            self._under_way.clear()
            self._trouble(why)
            # Two clients of one name throw each other out as soon as they connect; that must not become a storm.
            if self._accepted and time.monotonic() - began > LAST_RETRY_S:
                backoff = FIRST_RETRY_S
            self._pause(backoff)
            backoff = min(2 * backoff, LAST_RETRY_S)

    def _done(self) -> bool:
        """Whether the sink is closed and everything has arrived, or nobody waits for it any more."""
        with self._changed:
            rest = self._waiting or self._again or self._under_way
            return self._over or (self._closing and not rest)

    def _connect(self) -> Client:
        """
        Raises:
            OSError: the broker cannot be reached.
        """
        import paho.mqtt.client as mqtt
        from paho.mqtt.enums import CallbackAPIVersion

        config = self._config
        # A new client for each connection: what has to be published again is known here, and nowhere twice.
        client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=config.client_id, protocol=mqtt.MQTTv311)
        if config.user is not None:
            client.username_pw_set(config.user, config.password)
        if self._tls is not None:
            client.tls_set_context(self._tls)
        client.will_set(self._topic("status"), "offline", qos=1, retain=True)
        client.on_connect = self._on_connect
        client.on_publish = self._on_publish
        client.connect(config.host, config.port, KEEPALIVE_S)
        return client

    def _topic(self, last: str) -> str:
        return f"{self._config.prefix}/{last}"

    def _on_connect(
        self, client: Client, _data: object, _flags: ConnectFlags, code: ReasonCode, _: Properties | None
    ) -> None:
        if code.is_failure:
            self._refusal = f"the broker refuses: {code}"
            return
        self._accepted = True
        self._works()
        self._retain(client, "status", b"online")
        # The broker may have lost what it retained.
        self._state_waits = True

    def _on_publish(
        self, _client: Client, _data: object, mid: int, _code: ReasonCode, _: Properties | None
    ) -> None:
        self._unheard.discard(mid)
        if self._under_way.pop(mid, None) is not None:
            self._deliver()

    def _serve(self, client: Client) -> bool:
        """Publish until the connection is lost (False) or the sink is done (True)."""
        try:
            while client.socket() is not None:
                if self._accepted:
                    self._publish_parts(client)
                    self._publish_state(client, STATE_INTERVAL_S)
                if self._done():
                    if self._accepted and not self._over:
                        self._say_goodbye(client)
                    return True
                self._wait(client)
            return False
        finally:
            if (socket := client.socket()) is not None:
                socket.close()

    def _publish_parts(self, client: Client) -> None:
        while (room := _WINDOW - len(self._under_way)) > 0:
            if not self._again:
                self._again.extend(self._take_waiting(room))
            if not self._again:
                return
            event = self._again.popleft()
            info = client.publish(self._topic("parts"), self._encode(event), qos=self._config.qos)
            if info.rc == 0 and info.is_published():
                self._deliver()
            else:
                # Put away even where it failed: the connection is then lost, and all these are published again.
                self._under_way[info.mid] = event
            if client.socket() is None:
                return

    def _retain(self, client: Client, topic: str, payload: bytes) -> None:
        info = client.publish(self._topic(topic), payload, qos=max(self._config.qos, 1), retain=True)
        self._unheard.add(info.mid)

    def _publish_state(self, client: Client, interval_s: float) -> None:
        now = time.monotonic()
        if now - self._state_at < interval_s:
            return
        with self._changed:
            if not self._state_waits or self._last is None:
                return
            self._state_waits, self._state_at = False, now
            passed, rejected, faults = (self._count[verdict] for verdict in ("pass", "reject", "fault"))
            state = LineState(
                parts=passed + rejected + faults,
                passed=passed,
                rejected=rejected,
                faults=faults,
                lost_records=self.lost,
                last=self._last,
            )
        self._retain(client, "state", self._encode(state))

    def _say_goodbye(self, client: Client) -> None:
        """An orderly end: the broker drops the last will, so its word is said here."""
        self._publish_state(client, 0.0)
        self._retain(client, "status", b"offline")
        # A connection that is closed with answers unread is reset, and what was sent last is lost with it.
        while client.socket() is not None and self._unheard and not self._over:
            self._wait(client)
        client.disconnect()
        while client.socket() is not None and client.want_write() and not self._over:
            self._wait(client)

    def _wait(self, client: Client) -> None:
        """Wait for the broker, for records, for a close, at most a second; and let paho do what is due."""
        socket = client.socket()
        assert socket is not None
        due_s = self._state_at + STATE_INTERVAL_S - time.monotonic() if self._state_waits else _TICK_S
        # TLS may hold bytes that the socket no longer shows.
        if isinstance(socket, ssl.SSLSocket) and socket.pending():
            due_s = 0.0
        poll = select.poll()
        poll.register(self._event, select.POLLIN)
        poll.register(socket.fileno(), select.POLLIN | (select.POLLOUT if client.want_write() else 0))
        ready = dict(poll.poll(1000 * min(max(due_s, 0.0), _TICK_S)))
        if self._event in ready:
            os.eventfd_read(self._event)
        happened = ready.get(socket.fileno(), 0)
        if happened & ~select.POLLOUT or due_s == 0.0:
            client.loop_read()
        if happened & select.POLLOUT:
            client.loop_write()
        client.loop_misc()
