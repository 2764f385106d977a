"""A mosquitto broker of our own, which can be stopped, killed and started again, and a client that listens."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import threading
from pathlib import Path

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from tests.line.records import wait_until

# Debian puts it where users do not look.
MOSQUITTO = shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
LISTENER = ("listener", "0penly")


class Broker:
    """Knows the users it is told, besides the one of :class:`Listener`; keeps nothing when it dies."""

    def __init__(self, folder: Path, users: dict[str, str], tls: str = "") -> None:
        self._folder = folder
        self._passwords = folder / "passwords"
        with socket.socket() as probe, socket.socket() as second:
            probe.bind(("127.0.0.1", 0))
            second.bind(("127.0.0.1", 0))
            self.port, self.tls_port = probe.getsockname()[1], second.getsockname()[1]
        lines = [
            "user root" if os.geteuid() == 0 else "",
            "per_listener_settings false",
            "persistence false",
            "allow_anonymous false",
            f"password_file {self._passwords}",
            f"listener {self.port} 127.0.0.1",
            f"listener {self.tls_port} 127.0.0.1\n{tls}" if tls else "",
        ]
        (folder / "mosquitto.conf").write_text("\n".join(lines) + "\n")
        self._process: subprocess.Popen[bytes] | None = None
        self.start(users)

    def start(self, users: dict[str, str]) -> None:
        assert MOSQUITTO is not None
        self._write_users(users)
        with (self._folder / "mosquitto.log").open("ab") as log:
            self._process = subprocess.Popen(
                [MOSQUITTO, "-c", str(self._folder / "mosquitto.conf")], stdout=log, stderr=log
            )
        wait_until(self._answers, "mosquitto answers")

    def _answers(self) -> bool:
        assert self._process is not None
        log = (self._folder / "mosquitto.log").read_text()
        assert self._process.poll() is None, log
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def _write_users(self, users: dict[str, str]) -> None:
        self._passwords.write_text(
            "".join(f"{user}:{password}\n" for user, password in [LISTENER, *users.items()])
        )
        tool = Path(MOSQUITTO or "").parent / "mosquitto_passwd"
        command = str(tool) if tool.exists() else "mosquitto_passwd"
        subprocess.run([command, "-U", str(self._passwords)], check=True, capture_output=True)

    def admit(self, users: dict[str, str]) -> None:
        """Know these users from now on."""
        self._write_users(users)
        self._signal(signal.SIGHUP)

    def pause(self) -> None:
        """It hangs: connections stay open, and nothing is answered."""
        self._signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)


class Listener:
    """Subscribes to everything and keeps it, connection after connection."""

    def __init__(self, port: int) -> None:
        self.messages: list[tuple[str, bytes, bool]] = []
        self._subscribed = threading.Event()
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id="listener")
        self._client.username_pw_set(*LISTENER)
        self._client.on_connect = self._on_connect
        self._client.on_subscribe = self._on_subscribe
        self._client.on_message = self._on_message
        self._client.reconnect_delay_set(1, 1)
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()
        self.wait()

    def _on_connect(
        self,
        client: mqtt.Client,
        _data: object,
        _flags: mqtt.ConnectFlags,
        _code: ReasonCode,
        _: Properties | None,
    ) -> None:
        client.subscribe("#", qos=1)

    def _on_subscribe(
        self, _client: mqtt.Client, _data: object, _mid: int, _codes: list[ReasonCode], _: Properties | None
    ) -> None:
        self._subscribed.set()

    def _on_message(self, _client: mqtt.Client, _data: object, message: mqtt.MQTTMessage) -> None:
        self.messages.append((message.topic, bytes(message.payload), message.retain))

    def wait(self) -> None:
        """Until it is subscribed, once for each connection."""
        assert self._subscribed.wait(20)
        self._subscribed.clear()

    def of(self, topic: str) -> list[bytes]:
        """The payloads that came at a topic."""
        return [payload for at, payload, _ in list(self.messages) if at == topic]

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()
