"""Train, publish, and run a fleet: models, devices, rollouts (DESIGN.md §6, §8)."""
