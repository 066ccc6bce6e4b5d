"""The first minutes on a GPU, in one command: ``python -m benchmarks.gpu``."""
