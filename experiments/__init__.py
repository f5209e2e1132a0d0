"""Commands that produce the tables in the docs."""
