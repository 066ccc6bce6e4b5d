"""An LLM judge behind any OpenAI-compatible server, for rewards that text rules cannot decide.

`settings` and `address` need only the standard library; the rest needs the extra `judge`, and is
imported only when a response is judged.
"""
