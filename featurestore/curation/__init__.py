"""What people decide about items: labels, reviews, named slices."""
