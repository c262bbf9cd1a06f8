"""Cleaning: what is repaired on import, and which examples of a pool are not wanted. Each part is a switch, off by default."""
