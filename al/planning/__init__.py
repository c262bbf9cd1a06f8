"""Memory, time, tokens and disk of a round before anything runs."""
