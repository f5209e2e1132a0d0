"""Operations in plain JAX that give PyTorch's numbers, on channels-last `(B, T, H, W, C)`.

They compute in the dtype of their input, with sums and statistics in float32, or in float64 where
the input is. `ops.cpu` has forms of some of them that a CPU computes faster; `forms` says which
ones a program is traced with.
"""
