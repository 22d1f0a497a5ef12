"""Heads behind an address: requests in, answers out, and what keeps the two safe."""
