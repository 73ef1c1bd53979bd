"""Rollouts: a model reaches a fleet in waves, and stops where a wave fails (DESIGN.md §6)."""
