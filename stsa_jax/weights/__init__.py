"""From a weight file to a model ready to use.

`names` maps PyTorch's names, `port` converts state dicts to parameters, `resample` adapts them to
other sizes, `files` reads and writes weight files, `initial` draws new weights, `pretrained` builds
the model.
"""
