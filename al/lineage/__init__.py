"""A line of adapters: its rounds so far, who may still be picked, and its state at the start of a round."""
