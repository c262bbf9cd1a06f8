"""Which examples of a pool are worth training on: embeddings, near-duplicates, holdout, clusters, quotas, picks. Numpy in, numpy out."""
