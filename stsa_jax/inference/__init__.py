"""What a model says of a video: windows over its frames, attention, classes, and the cost."""

from stsa_jax.inference.windows import Predictor, predict_frames, predict_video, target_index

__all__ = ['Predictor', 'predict_frames', 'predict_video', 'target_index']
