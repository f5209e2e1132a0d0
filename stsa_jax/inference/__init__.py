"""Running a model on videos: sliding windows, attention maps, classification, and cost."""

from stsa_jax.inference.windows import Predictor, predict_frames, predict_video, target_index

__all__ = ['Predictor', 'predict_frames', 'predict_video', 'target_index']
