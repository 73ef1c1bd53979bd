"""From data to a published model: train, export, check, quantize, measure, publish."""
