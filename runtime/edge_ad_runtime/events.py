"""The record of a part, the same for every sink (:mod:`edge_ad_runtime.sinks`)."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from edge_ad_runtime.verdict import Fault


class PartEvent(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One part and what became of it."""

    part: Annotated[int, Meta(description="Number of the part, counted from 1.")]
    source: Annotated[str, Meta(description="Camera or file that its image came from, without passwords.")]
    score: Annotated[float | None, Meta(description="Anomaly score; null where there is none.")]
    threshold: Annotated[float, Meta(description="Scores above it are rejects.")]
    verdict: Annotated[
        Literal["pass", "reject", "fault"],
        Meta(description="What becomes of the part; a fault is handled like a reject."),
    ]
    latency_ms: Annotated[
        float | None,
        Meta(
            description="From t_monotonic_ns to the verdict, in milliseconds; null where the scorer gave none."
        ),
    ]
    t_monotonic_ns: Annotated[
        int,
        Meta(description="Time of the trigger, or of the frame without one: nanoseconds of CLOCK_MONOTONIC."),
    ]
    time: Annotated[str, Meta(description="Wall-clock label of the verdict, ISO 8601, UTC.")]
    fault: Annotated[
        str | None, Meta(description="Why there is no verdict of the model, in words; absent otherwise.")
    ] = None
    fault_kind: Annotated[
        Fault | None,
        Meta(description="Why there is no verdict of the model, in one word; absent where unknown."),
    ] = None
    ejected: Annotated[
        bool | None,
        Meta(description="Whether a reject pulse was meant for the part; absent where nobody knows."),
    ] = None
