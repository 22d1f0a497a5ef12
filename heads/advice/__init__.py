"""What to take: encoder, head, whether it helps, labels, cost, and the command to type."""
