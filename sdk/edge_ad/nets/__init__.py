"""Teacher, student and autoencoder."""
