"""Rows of the prepared files as verl, the engine and evaluation read them."""
