"""Makes reasoning with boxes for rows that have none, with a language model."""
