"""Winnow: active-learning data selection around a QLoRA trainer."""

__version__ = "0.1.0"
