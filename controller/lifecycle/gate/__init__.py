"""The gate: what a graph must pass before it is published, and what is wrong with one that does not."""
