"""Video files, frames and pictures: reading, writing, preparing, drawing. No model, no JAX."""
