"""The table of classes."""

from __future__ import annotations

import pytest

from edge_ad.evaluation.classes import class_figures, overall_figures
from edge_ad_runtime.errors import InputError


def test_a_published_table_comes_out() -> None:
    """Of 561 images with five kinds of defects: the counts are those that its rates mean."""
    counts = {
        "defect_type_2": (102, 112),
        "defect_type_3": (85, 87),
        "defect_type_4": (134, 134),
        "defect_type_6": (6, 6),
        "defect_type_7": (10, 10),
        "good": (31, 212),
    }
    kinds = [kind for kind, (_, images) in counts.items() for _ in range(images)]
    rejected = [i < found for found, images in counts.values() for i in range(images)]
    rows = {row.name: row for row in class_figures(kinds, rejected)}
    assert list(rows) == list(counts)
    two = rows["defect_type_2"]
    assert (two.images, round(two.accuracy, 4), two.precision, two.recall) == (112, 0.9107, 1.0, two.accuracy)
    good = rows["good"]
    assert (good.images, round(good.accuracy, 4), good.precision, good.recall) == (212, 0.8538, None, None)
    overall = overall_figures(kinds, rejected)
    assert (overall.name, overall.images) == ("overall", 561)
    assert overall.precision is not None and overall.recall is not None
    figures = (overall.accuracy, overall.precision, overall.recall)
    assert [round(f, 4) for f in figures] == [0.9234, 0.9158, 0.9656]


def test_what_has_no_meaning_is_absent() -> None:
    none_rejected = overall_figures(["good", "a"], [False, False])
    assert (none_rejected.accuracy, none_rejected.precision, none_rejected.recall) == (0.5, None, 0.0)
    only_good = overall_figures(["good", "good"], [True, False])
    assert (only_good.accuracy, only_good.precision, only_good.recall) == (0.5, None, None)
    assert class_figures([], []) == ()


def test_counts_must_fit() -> None:
    with pytest.raises(InputError, match="belong together"):
        class_figures(["good"], [])
    with pytest.raises(InputError, match="no images"):
        overall_figures([], [])
