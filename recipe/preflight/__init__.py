"""Checks of a run before it starts, and its plan: ``python -m recipe.preflight``."""
