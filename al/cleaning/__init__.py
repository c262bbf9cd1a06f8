"""Detection of examples to exclude: refusals and unwanted languages. Each part is a switch, off by default."""
