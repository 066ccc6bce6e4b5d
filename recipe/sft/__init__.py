"""Supervised fine-tuning, the cold start of GRPO."""
