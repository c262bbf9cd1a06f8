"""Stages made once per pool version: tokenize, embed, near-duplicates, holdout, target, clusters, and what the report shows of them."""
