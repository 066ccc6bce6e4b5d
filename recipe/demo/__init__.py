"""``make demo``: every program of the recipe in turn, on synthetic data, without a GPU."""
