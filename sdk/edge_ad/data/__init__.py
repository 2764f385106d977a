"""Data sets: reading them as they are, splitting the good images, masks, and making one from annotations."""

from edge_ad.data.layouts import find_datasets, read_dataset
from edge_ad.data.masks import defect_mask, read_mask, read_mask_values
from edge_ad.data.model import Dataset, Saturation, TestImage
from edge_ad.data.split import MIN_GOOD_IMAGES, MIN_VALIDATION_IMAGES, Split, content_hash, split_good

__all__ = [
    "MIN_GOOD_IMAGES",
    "MIN_VALIDATION_IMAGES",
    "Dataset",
    "Saturation",
    "Split",
    "TestImage",
    "content_hash",
    "defect_mask",
    "find_datasets",
    "read_dataset",
    "read_mask",
    "read_mask_values",
    "split_good",
]
