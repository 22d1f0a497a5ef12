"""Nearest neighbors: exact, approximate with a known recall, on a GPU."""
