"""What each command does, as functions: they open the run, do the work, and return a plain document to print."""
