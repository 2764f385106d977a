"""Distilling a teacher from a frozen feature extractor (arXiv 2303.14535, Algorithm 3)."""
