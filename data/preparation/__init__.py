"""Making a dataset of a copy: what a frame holds, shards, the TFDS builder, their registry."""
