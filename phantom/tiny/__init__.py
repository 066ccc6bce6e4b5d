"""A tiny Qwen2.5-VL with its own tokenizer, for machines without an accelerator."""
