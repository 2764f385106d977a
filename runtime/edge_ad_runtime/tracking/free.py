"""Without a trigger: every frame stands for a part, and its verdict is there before its way begins."""

from __future__ import annotations

from dataclasses import dataclass, field

from edge_ad_runtime.tracking.tracker import Action, Eject, Settled
from edge_ad_runtime.verdict import Fault, Verdict


@dataclass
class FreeCounts:
    """Counts since the start."""

    parts: int = 0
    passed: int = 0
    rejected: int = 0
    faults: dict[Fault, int] = field(default_factory=dict)


class FreeRun:
    """Frames to pulses. What a frame taken at ``t`` shows is before the ejector at ``t + travel_ns``; when that has
    passed, the pulse is given at once, for several frames show the part and only one of them may have been too late."""

    def __init__(self, travel_ns: int, pass_faults: bool = False) -> None:
        self._travel_ns = travel_ns
        self._pass_faults = pass_faults
        self.counts = FreeCounts()

    def frame(self, t_ns: int, verdict: Verdict, fault: Fault | None, detail: str | None) -> list[Action]:
        """A frame was judged: its pulse if it is rejected, and its record."""
        counts = self.counts
        counts.parts += 1
        due = t_ns + self._travel_ns
        ejected = verdict is Verdict.REJECT or (verdict is Verdict.FAULT and not self._pass_faults)
        if verdict is Verdict.PASS:
            counts.passed += 1
        elif verdict is Verdict.REJECT:
            counts.rejected += 1
        elif fault is not None:
            counts.faults[fault] = counts.faults.get(fault, 0) + 1
        actions: list[Action] = [Eject(due, whole=True)] if ejected else []
        actions.append(
            Settled(
                part=counts.parts,
                t_trigger_ns=t_ns,
                verdict=verdict,
                ejected=ejected,
                due_ns=due,
                fault=fault,
                detail=detail,
            )
        )
        return actions
