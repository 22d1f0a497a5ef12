"""Near-duplicates: clusters of items that are nearly one."""
