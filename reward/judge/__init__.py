"""An LLM judge on any OpenAI-compatible server, for rewards that text rules cannot decide.

`settings` loads without the extra `judge`; `judge` needs it, and is imported only when a response
is judged.
"""
