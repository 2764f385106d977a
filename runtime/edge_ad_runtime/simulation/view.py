"""The parts on the belt, and where they are: before the camera, before the ejector."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from edge_ad_runtime.simulation.motion import Motion
from edge_ad_runtime.simulation.scene import Scene
from edge_ad_runtime.simulation.truth import Looks


@dataclass(frozen=True)
class Article:
    """A part on the belt: where the belt stands when its front is at the photo-eye, in mm, and its length."""

    place: float
    length: float
    looks: Looks

    @property
    def middle(self) -> float:
        """Where the belt stands when the part's middle is at the photo-eye."""
        return self.place + self.length / 2


class View:
    """What the camera shows."""

    def __init__(self, scene: Scene, articles: Sequence[Article], motion: Motion) -> None:
        self._scene = scene
        self._motion = motion
        # Not quite in the order of their fronts, where parts of different lengths touch.
        self._order = sorted(range(len(articles)), key=lambda i: articles[i].middle)
        self._middles = [articles[i].middle for i in self._order]

    def at(self, exposed_ns: int) -> tuple[int, ...]:
        """The articles whose middle is in view."""
        belt, scene = self._motion.at(exposed_ns), self._scene
        first = bisect_left(self._middles, belt - scene.view_until)
        last = bisect_right(self._middles, belt - scene.view_from)
        return tuple(self._order[first:last])


class Window:
    """What the ejector strikes.

    Args:
        scene, motion: where it is, and how the belt runs.
        acted: when it acted, from and until, in ns, in order.
    """

    def __init__(self, scene: Scene, motion: Motion, acted: Sequence[tuple[int, int]]) -> None:
        self._scene = scene
        self._motion = motion
        self._acted = acted
        self._reach = [motion.at(until) for _, until in acted]

    def struck(self, article: Article) -> tuple[int, int] | None:
        """The first time that the ejector acted with the article before it; None: it went on."""
        begin = article.place + self._scene.window_from
        end = article.place + self._scene.window_until + article.length
        first = bisect_left(self._reach, begin)
        if first < len(self._acted) and self._motion.at(self._acted[first][0]) <= end:
            return self._acted[first]
        return None
