"""Training with torch: a dataset in, a run directory out (its content: `record`)."""
