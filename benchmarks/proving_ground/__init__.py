"""The proving ground: ten development pools, a fast player of selection runs, and what the runs say. README: docs/selection.md."""
