"""Compressed models beside plain ones, anomalib's export and PaDiM; see ``__main__``."""
