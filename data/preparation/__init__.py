"""Preparing a dataset from a copy: features, shards, the TFDS builder, and the registry."""
