"""Workarounds for faults of verl 0.9.1 and vLLM, each with its reason."""
