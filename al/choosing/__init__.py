"""From what was measured to a selection: clusters of the round, what must be measured, what is picked and why; the random control."""
