"""Training in any framework: a dataset in, a run directory out (its content: `record`)."""
