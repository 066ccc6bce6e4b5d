"""The report: one self-contained HTML page of a run, readable without a network."""
