"""Winnow: active-learning data selection around a QLoRA trainer."""
