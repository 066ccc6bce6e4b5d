"""A run and its folder: processes, checkpoints, resuming, and its end when nothing moves."""
