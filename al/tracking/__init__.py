"""Trackers outside of the run: what a run records is sent to them as well, and nothing they do can stop or slow a round (trap 32)."""
