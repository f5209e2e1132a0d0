"""The classes of `predict --classify`."""

import argparse
from pathlib import Path

from tqdm import tqdm

from stsa_jax.commands.predict_options import open_video
from stsa_jax.inference import classify
from stsa_jax.media import video


def print_classes(options: argparse.Namespace) -> None:
    """Prints the five most probable Kinetics classes of each video."""
    for path in options.video:
        open_video(path, options)
    how = {'allow_nonfinite': True} if options.allow_nonfinite else {}
    classifier = classify.load_classifier(options.checkpoint, **how)
    for path in options.video:
        with video.quietly():
            film = open_video(path, options)
        count = film.info.num_frames
        frames = tqdm(film.frames, Path(path).name, count, unit='frame', disable=None)
        pixels = (frame.pixels for frame in frames)
        probabilities = classify.classify_video(classifier, pixels, count)
        print(path)
        for label, probability in classify.top(classifier, probabilities):
            print(f'  {probability:6.1%}  {label}')
