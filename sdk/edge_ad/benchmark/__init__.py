"""Training and measuring on many data sets with several seeds."""
