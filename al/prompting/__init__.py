"""Answers of a run's models to prompts of a user: which models a run has, what it is asked, and a chat in the terminal."""
