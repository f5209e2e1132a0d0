"""The datasets: a TFDS builder each, and the scenes of those that are drawn here."""
