"""Datasets in, parquet out: box mapping, splits, audit, and the synthetic phantom set."""
