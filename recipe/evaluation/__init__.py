"""From generated responses to numbers: metrics, baselines, paired intervals, the summary."""
