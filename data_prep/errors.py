"""The error that ends a program of this package: one line on stderr and exit code 2."""

from __future__ import annotations


class InputError(Exception):
    """A fault of the input as a whole, in one line that says what to do."""
