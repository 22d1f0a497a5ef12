"""What embeddings show about the data itself: wrong labels, duplicates, leaks, outliers."""
