"""What is measured of examples, in passes, and how selection receives it: columns, vectors, losses of earlier rounds, noise."""
