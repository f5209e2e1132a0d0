"""The networks: Flax modules in plain JAX, a file each, and how they become pure functions.

Nothing here knows of files, devices or training.
"""
