"""The training system: trainer, supervised cold start, evaluation and report on top of verl."""
