"""Operations that give PyTorch's numbers, on channels-last activations `(B, T, H, W, C)`."""
