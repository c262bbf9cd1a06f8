"""From what was measured to a selection: clusters of this round, what must be measured, who is picked and why; the random control."""
