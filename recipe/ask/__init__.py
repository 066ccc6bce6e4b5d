"""Ask a model about a picture: one question on the console, or a local page for any number."""
