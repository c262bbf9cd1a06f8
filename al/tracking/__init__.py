"""Trackers: a run's metrics are also sent to wandb and others. A tracker cannot stop or slow a round (trap 32)."""
