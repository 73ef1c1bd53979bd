"""How good a model is: labels as they lie in datasets, figures by task, and an evaluation of both."""
