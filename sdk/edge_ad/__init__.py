"""EfficientAD from a folder of good images to a reject signal on a production line."""

__version__ = "0.1.0"
