"""From a file of weights to a model ready to use, one way.

`names` translates PyTorch's names, `port` state dicts to parameters, `resample` fits them to other
sizes, `files` reads and writes what people hold, `initial` draws new ones, `pretrained` makes the
model.
"""
