"""Nets with less arithmetic and the same maps: fewer directions, narrower layers, a shorter decoder."""

from __future__ import annotations

from edge_ad_converters.compress.job import CompressionImages, Compressor
from edge_ad_converters.compress.shape import Energy, Shape, full_shape, ladder, shape_for, shape_gmac

__all__ = [
    "CompressionImages",
    "Compressor",
    "Energy",
    "Shape",
    "full_shape",
    "ladder",
    "shape_for",
    "shape_gmac",
]
