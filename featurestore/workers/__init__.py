"""A run in parts, for workers on this machine or on many: plan, embed, commit."""
