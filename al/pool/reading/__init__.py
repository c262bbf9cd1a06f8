"""Reads raw rows from files of every kind, streams and hub data sets; an unreadable row becomes a RowError in its place."""
