"""Operations in plain JAX that match PyTorch's numbers, on channels-last `(B, T, H, W, C)`.

They compute in the dtype of their input, with sums and statistics in float32, or float64 for
float64 input. `ops.cpu` has faster forms of some of them for CPUs; `forms` selects the ones a
program is traced with.
"""
