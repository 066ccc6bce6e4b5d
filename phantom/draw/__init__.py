"""A synthetic chest X-ray dataset in the published ThinkVG layout."""
