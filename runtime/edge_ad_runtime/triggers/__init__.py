"""Triggers, encoders and belt signals behind one interface, each given as a URL."""

from __future__ import annotations

from edge_ad_runtime.errors import InputError
from edge_ad_runtime.triggers.base import Count, Edge, Running, SourceConfig

__all__ = ["Count", "Edge", "Running", "SourceConfig", "parse_belt", "parse_encoder", "parse_trigger"]


def parse_trigger(url: str) -> SourceConfig[Edge]:
    raise InputError(f"trigger '{url}': unknown")


def parse_encoder(url: str) -> SourceConfig[Count]:
    raise InputError(f"encoder '{url}': unknown")


def parse_belt(url: str) -> SourceConfig[Running]:
    raise InputError(f"belt signal '{url}': unknown")
