"""Heads on disk and in use: bundles, served predictions, views on common items."""
