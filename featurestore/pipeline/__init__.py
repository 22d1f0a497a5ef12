"""From sources to vectors: listing, plan, decode, encode, write."""
