"""Quantiles, thresholds, and recalibration in the field."""
