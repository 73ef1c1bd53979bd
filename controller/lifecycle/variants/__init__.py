"""The variants of a model: one for each class of devices, built, judged, and put into one manifest."""
