"""Grounding rewards beside those of other projects, and what they did in training."""
