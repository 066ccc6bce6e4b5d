"""Reasoning with boxes for rows that have none, written by a language model."""
