"""The queue of batch jobs: what waits, who runs what, and what became of it."""
