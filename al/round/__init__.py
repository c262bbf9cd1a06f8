"""The round, its training, budgets of time, and plain fine-tuning without rounds."""
