"""Additions to verl's algorithms: advantages, losses, learning rates."""
