"""What follows from a view row by row: the kNN graph, maps in two dimensions."""
