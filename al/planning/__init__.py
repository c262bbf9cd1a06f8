"""Estimates of a round's memory, time, tokens and disk before it runs."""
