"""The run directory: database, artifacts, trash, lock; the session and progress of a process that works on it."""
