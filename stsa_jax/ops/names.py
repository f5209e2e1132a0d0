"""Names of results, for the policies that decide what a gradient keeps (`jax.checkpoint`).

`stsa_jax.training.remat` has the policies. A name does nothing by itself.
"""

PRODUCT = 'product'  # of convolutions and attention, and statistics: dear to compute, small to keep
