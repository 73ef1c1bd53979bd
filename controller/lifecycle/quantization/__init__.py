"""From fp32 to 8 bits: calibration, quantization, and the search for the accuracy that it lost."""
