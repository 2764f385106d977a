"""Reading the texts that name sinks. No message repeats what may hold a password."""

from __future__ import annotations

import hashlib
import re
import socket
from pathlib import Path
from urllib.parse import SplitResult, unquote, urlsplit

from edge_ad_runtime.errors import InputError
from edge_ad_runtime.outputs.query import Query
from edge_ad_runtime.sinks.base import SinkConfig
from edge_ad_runtime.sinks.jsonl import JsonLinesConfig
from edge_ad_runtime.sinks.mqtt import MqttConfig
from edge_ad_runtime.sinks.webhook import WebhookConfig

_MQTT_KEYS = ("client_id", "qos", "ca", "certificate", "key")
_WEBHOOK_KEYS = ("rejects_only", "batch", "timeout_s")
# MQTT 3.1.1, 4.7.1 and 4.7.3: wildcards and NUL are no part of a topic's name; names beginning with $ are the broker's.
_NO_TOPIC = re.compile(r"[+#\0]|^\$")
MAX_BATCH = 1000


def parse_sink(text: str) -> SinkConfig:
    """Read a sink's text without opening anything; see :mod:`edge_ad_runtime.sinks`.

    Raises:
        InputError: the text is not understood.
    """
    kind, colon, rest = text.partition(":")
    if kind == "jsonl" and rest:
        return JsonLinesConfig(None if rest == "-" else Path(rest))
    if kind in ("mqtt", "mqtts") and rest.startswith("//"):
        return _mqtt(_split(text), secure=kind == "mqtts")
    if kind in ("http", "https") and rest.startswith("//"):
        return _webhook(_split(text), secure=kind == "https")
    raise InputError(
        f"sink '{kind}{colon}{'…' if rest else ''}': must be jsonl:FILE, jsonl:- for standard output, "
        "mqtt://HOST/PREFIX, mqtts://HOST/PREFIX, http://… or https://…"
    )


def _split(text: str) -> SplitResult:
    """The parts of an address, with host and port usable and everything secret where it belongs."""
    where = f"sink '{text.partition('://')[0]}://…'"
    hint = "in user and password, write '/', '?', '#' and '@' as %2F, %3F, %23 and %40"
    try:
        parts = urlsplit(text)
        host, _ = parts.hostname, parts.port
        (host or "").encode("idna")
    except (ValueError, UnicodeError):
        raise InputError(f"{where}: host and port are not understood; {hint}") from None
    if (
        parts.fragment
        or "@" in parts.path + parts.query
        or (parts.username is not None and not parts.username)
    ):
        raise InputError(f"{where}: not an address of this kind; {hint}, anywhere else too")
    if not host or not re.fullmatch(r"[^\s%]+", host) or parts.port == 0:
        raise InputError(f"{where}: names no host")
    return parts


def _decoded(text: str | None) -> str | None:
    return None if text is None else unquote(text)


def _mqtt(parts: SplitResult, secure: bool) -> MqttConfig:
    host = parts.hostname or ""
    port = parts.port or (8883 if secure else 1883)
    prefix = unquote(parts.path).strip("/")
    where = f"sink '{parts.scheme}://{parts.netloc.rpartition('@')[2]}/{prefix}'"
    if not prefix or _NO_TOPIC.search(prefix) or not _is_mqtt_text(f"{prefix}/status"):
        raise InputError(
            f"{where}: give a topic's beginning behind the host, as in mqtt://broker/plant/line1, without '+', '#' or '$'"
        )
    query = Query(parts.query, where, _MQTT_KEYS)
    client_id = query.text("client_id", _client_id(prefix))
    if not client_id or not _is_mqtt_text(client_id):
        raise InputError(f"{where}: client_id must not be empty and may have 65535 bytes")
    files = {
        key: Path(text) if (text := query.text(key, "")) else None for key in ("ca", "certificate", "key")
    }
    if any(files.values()) and not secure:
        raise InputError(f"{where}: ca, certificate and key are for mqtts://")
    if files["key"] is not None and files["certificate"] is None:
        raise InputError(f"{where}: the key is given without its certificate")
    user, password = _decoded(parts.username), _decoded(parts.password)
    if any(text is not None and not _is_mqtt_text(text) for text in (user, password)):
        raise InputError(f"{where}: user and password may have 65535 bytes each")
    return MqttConfig(
        secure=secure,
        host=host,
        port=port,
        prefix=prefix,
        client_id=client_id,
        user=user,
        password=password,
        qos=query.integer("qos", 1, 0, 2),
        **files,
    )


def _is_mqtt_text(text: str) -> bool:
    """MQTT 3.1.1, 1.5.3: at most 65,535 bytes of UTF-8, and no NUL."""
    return "\0" not in text and len(text.encode("utf-8", "surrogateescape")) <= 65_535


def _client_id(prefix: str) -> str:
    """The same at every start and at every reconnection, so that the broker knows that the old connection is over;
    otherwise its last will could come after the birth of the new one. 23 characters, MQTT 3.1.1, 3.1.3.1."""
    return "edge-ad-" + hashlib.sha256(f"{socket.gethostname()}/{prefix}".encode()).hexdigest()[:15]


def _webhook(parts: SplitResult, secure: bool) -> WebhookConfig:
    where = f"sink '{parts.scheme}://{parts.netloc.rpartition('@')[2]}/…'"
    ours: list[str] = []
    theirs: list[str] = []
    for pair in parts.query.split("&") if parts.query else []:
        (ours if pair.partition("=")[0] in _WEBHOOK_KEYS else theirs).append(pair)
    query = Query("&".join(ours), where, _WEBHOOK_KEYS)
    timeout_s = query.number("timeout_s", 10.0)
    if not 0.1 <= timeout_s <= 300:
        raise InputError(f"{where}: timeout_s={timeout_s:g} must be 0.1 to 300")
    target = (parts.path or "/") + ("?" + "&".join(theirs) if theirs else "")
    if not re.fullmatch(r"[!-~]+", target):
        raise InputError(f"{where}: path and query must be percent-encoded ASCII without blanks")
    return WebhookConfig(
        secure=secure,
        host=parts.hostname or "",
        port=parts.port,
        target=target,
        user=_decoded(parts.username),
        password=_decoded(parts.password),
        rejects_only=query.flag("rejects_only"),
        batch=query.integer("batch", 1, 1, MAX_BATCH),
        timeout_s=timeout_s,
    )
