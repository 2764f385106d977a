"""JSON Schemas of what sinks send: python -m edge_ad_runtime.sinks.schema part|state"""

from __future__ import annotations

import json
import sys
from typing import Any, Literal

import msgspec

from edge_ad_runtime.events import PartEvent
from edge_ad_runtime.sinks.mqtt import LineState

_KINDS = {"part": PartEvent, "state": LineState}


def record_schema(kind: Literal["part", "state"] = "part") -> dict[str, Any]:
    """The JSON Schema (2020-12) of a part's record, or of what is retained at the topic ``state``."""
    dialect = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    return dialect | msgspec.json.schema(_KINDS[kind])


def main(arguments: list[str]) -> int:
    if arguments == ["part"] or arguments == ["state"]:
        kind: Literal["part", "state"] = "part" if arguments == ["part"] else "state"
        print(json.dumps(record_schema(kind), indent=2, ensure_ascii=False))
        return 0
    print(__doc__, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
