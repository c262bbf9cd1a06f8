"""Allocations: how a budget is divided over clusters. `selection.registry` imports every module of this folder.

Those that go by size and loss, on which others build, are in selection/allocate.py.
"""
