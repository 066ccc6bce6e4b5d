"""From source rows to the training files: what `data_prep.pipeline` calls."""
