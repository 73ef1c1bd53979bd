"""How good answers are: what is true of pictures, and the figures of a task, for whoever judges a model.

A model under import is judged on labelled data, a batch job on a column of labels; both count alike. pycocotools is
imported only where average precision is counted: a device has none.
"""
