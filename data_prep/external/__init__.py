"""Other data sets to evaluate on: `python -m data_prep.external`."""
