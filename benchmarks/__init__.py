"""Measurements that a user can repeat; see each module's docstring."""
