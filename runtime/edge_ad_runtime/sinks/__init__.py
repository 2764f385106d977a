"""Where the record of every part goes, each sink given as a short text.

=========================================================  ==================================================
``jsonl:FILE``, ``jsonl:-``                                JSON lines, appended to a file or written to
                                                           standard output
``mqtt://user:pw@host:1883/topic/prefix?qos=1``            an MQTT broker, ``mqtts://`` with TLS;
                                                           ``client_id=``, ``ca=``, ``certificate=``, ``key=``
                                                           (extra ``mqtt``)
``https://user:pw@host/path?rejects_only=1&batch=50``      JSON by POST, also ``http://``; ``timeout_s=``;
                                                           other keys are the server's and sent with the path
:class:`CallableSink`                                      a Python function
=========================================================  ==================================================

Each has a bounded queue and a thread of its own: no sink can delay a verdict, and what it could not deliver is counted.
docs/records.md describes records and topics.
"""

from __future__ import annotations

from edge_ad_runtime.sinks.base import Sink, SinkConfig
from edge_ad_runtime.sinks.function import CallableSink
from edge_ad_runtime.sinks.group import SinkGroup, open_sinks
from edge_ad_runtime.sinks.parse import parse_sink

__all__ = ["CallableSink", "Sink", "SinkConfig", "SinkGroup", "open_sinks", "parse_sink"]
