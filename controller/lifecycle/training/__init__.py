"""Training with torch: a dataset in, a run directory out (`controller.lifecycle.training.record` says what is in it)."""
