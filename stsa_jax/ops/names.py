"""Names of results, for the rematerialisation policies of `jax.checkpoint`.

`stsa_jax.training.remat` has the policies. A name does nothing by itself.
"""

PRODUCT = 'product'  # convolutions, attention, statistics: expensive to compute, small
