"""Words of the field as frozen values: specs, embeddings, snapshots, labels."""
