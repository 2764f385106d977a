"""The line: camera, scorer, guard, and what is recorded of every part."""

from edge_ad_runtime.line.loop import LineSummary, run_line

__all__ = ["LineSummary", "run_line"]
