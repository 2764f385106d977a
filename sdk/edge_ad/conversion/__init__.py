"""From a run to a bundle, with proof of what it cost."""

from __future__ import annotations

from edge_ad.conversion.images import ImageSets, choose_images, labelled_images
from edge_ad.conversion.job import Conversion, convert
from edge_ad.conversion.options import DEVICES, ConvertOptions

__all__ = [
    "DEVICES",
    "Conversion",
    "ConvertOptions",
    "ImageSets",
    "choose_images",
    "convert",
    "labelled_images",
]
