"""Nearest neighbours: exact, approximate with a known recall, on a GPU."""
