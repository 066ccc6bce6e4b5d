"""Evaluation: responses, metrics, baselines, paired intervals and the summary."""
