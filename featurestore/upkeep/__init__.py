"""Care of a store over years: versions, erasure, verification, moved sources."""
