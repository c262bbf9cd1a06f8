"""Strategies compared on one pool over several seeds."""
