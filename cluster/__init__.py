"""Batch inference over image datasets with Ray (DESIGN.md §4)."""
