"""Choose the examples of a pool to train on: embeddings, near-duplicates, holdout, clusters, quotas, picks. NumPy in, NumPy out."""
