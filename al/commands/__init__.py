"""The commands as functions. Each opens the run, does the work, and returns a plain document to print."""
