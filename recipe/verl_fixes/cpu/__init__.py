"""verl and vLLM on a machine without an accelerator; imported only where ``VERL_PLATFORM=cpu``."""
