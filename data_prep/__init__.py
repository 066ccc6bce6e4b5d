"""Datasets in, parquet out: box mapping, splits, audit."""
