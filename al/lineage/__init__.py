"""A line of adapters: its rounds so far, who may still be picked, and where it stands at the start of a round."""
