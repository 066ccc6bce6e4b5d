"""Checks a run ahead of it and shows its plan: ``python -m recipe.preflight``."""
