"""More allocations: how a budget is divided over clusters. `selection.registry` imports every module of this folder.

The allocations by size and loss are in selection/allocate.py, because others build on them.
"""
