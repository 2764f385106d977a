"""Training student and autoencoder (arXiv 2303.14535, Algorithm 1)."""
