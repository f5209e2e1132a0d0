"""The networks: Flax modules in plain JAX, one file each, and their pure-function form.

Nothing here depends on files, devices or training.
"""
