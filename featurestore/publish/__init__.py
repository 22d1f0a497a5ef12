"""A view's rows in a vector database, kept as the view is."""
