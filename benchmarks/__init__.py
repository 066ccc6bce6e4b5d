"""Measurements that a user can repeat; run them as modules from the root."""
