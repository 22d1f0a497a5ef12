"""Heads that scikit-learn lacks: numpy and scikit-learn only, and its contract kept."""
