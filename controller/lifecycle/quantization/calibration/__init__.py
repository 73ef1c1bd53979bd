"""Calibration in a stream: which range of numbers every activation takes on real images, in bounded memory.

    images -> taps (inner values, a group at a time) -> stream (minima and maxima, then histograms)
           -> methods (histogram to range) -> ranges

`calibrate.Calibration` is what others use.
"""
