"""Video files, frames and images: reading, writing, preprocessing, drawing. No model, no JAX."""
