"""The part of a URL behind the question mark, with an error for everything that is not understood."""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import parse_qsl

from edge_ad_runtime.errors import InputError
from edge_ad_runtime.outputs.base import Timing

TIMING_KEYS = ("pulse_ms", "delay_ms", "lead_ms", "min_off_ms", "safe", "energise")


class Query:
    """Typed access to ``key=value&…``; every key must be one of the accepted ones and appear once."""

    def __init__(self, text: str, where: str, accepted: Iterable[str]) -> None:
        self._where = where
        self._accepted = tuple(accepted)
        self._values: dict[str, str] = {}
        try:
            pairs = parse_qsl(text, keep_blank_values=True, strict_parsing=bool(text))
        except ValueError:
            raise InputError(f"{where}: '?{text}' must be key=value pairs joined by '&'") from None
        for key, value in pairs:
            if key not in self._accepted:
                accepts = ", ".join(self._accepted) or "none"
                raise InputError(f"{where}: the key '{key}' is unknown; accepted are {accepts}")
            if key in self._values:
                raise InputError(f"{where}: the key '{key}' is given twice")
            self._values[key] = value

    def text(self, key: str, default: str) -> str:
        return self._values.get(key, default)

    def choice(self, key: str, choices: Iterable[str], default: str) -> str:
        value = self.text(key, default)
        if value not in (known := tuple(choices)):
            raise InputError(f"{self._where}: {key}={value} is unknown; accepted are {', '.join(known)}")
        return value

    def integer(self, key: str, default: int, low: int, high: int) -> int:
        value = self._values.get(key)
        if value is None:
            return default
        # int() would also take '1_0', ' 1' and other digits than ours.
        if not (value.isascii() and value.isdigit() and low <= int(value) <= high):
            raise InputError(f"{self._where}: {key}={value} must be a whole number from {low} to {high}")
        return int(value)

    def number(self, key: str, default: float) -> float:
        value = self._values.get(key)
        if value is None:
            return default
        try:
            return float(value)
        except ValueError:
            raise InputError(f"{self._where}: {key}={value} is not a number") from None

    def refuse(self, keys: Iterable[str], why: str) -> None:
        """Raise InputError if one of these keys is given, which are accepted only beside others."""
        for key in keys:
            if key in self._values:
                raise InputError(f"{self._where}: {key}= {why}")

    def hex_bytes(self, key: str) -> bytes:
        """Up to 64 bytes such as ``A00101A2``; empty when the key is absent."""
        value = self.text(key, "")
        # fromhex() would also skip spaces.
        if len(value) > 128 or not all(c in "0123456789abcdefABCDEF" for c in value) or len(value) % 2:
            raise InputError(f"{self._where}: {key}={value} must be bytes in hex, such as A00101A2")
        return bytes.fromhex(value)

    def flag(self, key: str) -> bool:
        return self.choice(key, ("0", "1"), "0") == "1"

    def integers(self, key: str) -> frozenset[int]:
        """Numbers and ranges such as ``3,5-7``; empty when the key is absent."""
        found: set[int] = set()
        for item in filter(None, self.text(key, "").split(",")):
            first, dash, last = item.partition("-")
            # Six digits: a range must not eat the memory.
            if not all(n.isascii() and n.isdigit() and len(n) <= 6 for n in (first, last if dash else first)):
                raise InputError(f"{self._where}: {key}={item} must be numbers or ranges such as 3,5-7")
            found.update(range(int(first), int(last or first) + 1))
        return frozenset(found)

    def timing(self) -> Timing:
        """The keys that all outputs share, see :class:`Timing`."""
        default = Timing()
        safe = self.choice("safe", ("auto", "off", "on"), "auto")
        energise = self.choice("energise", ("reject", "accept"), "reject")
        try:
            return Timing(
                pulse_ms=self.number("pulse_ms", default.pulse_ms),
                delay_ms=self.number("delay_ms", default.delay_ms),
                lead_ms=self.number("lead_ms", default.lead_ms),
                min_off_ms=self.number("min_off_ms", default.min_off_ms),
                safe="on" if safe == "on" else "off" if safe == "off" else "auto",
                energise="accept" if energise == "accept" else "reject",
            )
        except InputError as error:
            raise InputError(f"{self._where}: {error}") from None
