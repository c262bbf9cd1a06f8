"""What a run owns: its directory, database, artifacts and trash; its lock, session and progress."""
