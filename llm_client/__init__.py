"""One client of OpenAI-compatible servers: for the judge, the synthesis, evaluation by a server."""
