"""Vectors and reviews to other programs and back."""
