"""The pickers: which examples of a cluster fill its quota. `selection.registry` imports every module of this folder.

CONTRIBUTING.md has the recipe for a new one.
"""
