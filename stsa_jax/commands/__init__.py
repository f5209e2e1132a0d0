"""The commands: `stsa-jax predict`, `stsa-jax train`, ..., and the scripts of the same names.

Each module is one command, the story that wires the other packages together, with a function
`run` that `stsa_jax.commands.main` calls. Only these modules read a command line. `data.prepare`,
`data.inspect` and `data.fixations` are the commands of the datasets.
"""
