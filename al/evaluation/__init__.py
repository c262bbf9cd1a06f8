"""Metrics of the holdout with paired bootstrap intervals, by source and group, and generated answers."""
