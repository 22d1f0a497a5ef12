"""Which rows teach and which test, and what their labels ask for: arrays in, arrays out."""
