"""GRPO on verl: the trainer, its metrics, and what ends a run."""
