"""Runs that differ in one thing each, and their comparison: ``python -m recipe.sweep``."""
