"""Models of other EfficientAD implementations become runs and teachers; nothing in their files is executed."""
