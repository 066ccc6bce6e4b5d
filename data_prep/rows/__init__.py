"""From one source row to one training example, or to its reject code."""
