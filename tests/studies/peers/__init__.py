"""Our INT8 beside what each engine's own default tool makes of the plain graph; see ``__main__``."""
