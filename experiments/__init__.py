"""What the tables of the docs come from, a command each."""
