"""Evaluates one source on one dataset: maps, scores, records; resumable by video."""

import dataclasses
import os
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from stsa_jax.errors import InputError
from stsa_jax.evaluation.protocol import METRICS, Protocol
from stsa_jax.evaluation.records import Row, Store, VideoScores
from stsa_jax.evaluation.scoring import FrameScore, Scorer
from stsa_jax.evaluation.selection import Selected
from stsa_jax.evaluation.sources import Source
from stsa_jax.evaluation.truth import GroundTruth


def score_source(
    name: str,
    source: Source,
    truth: GroundTruth,
    videos: Sequence[Selected],
    protocol: Protocol,
    *,
    folder: Path | None = None,
    workers: int = 0,
    quantisation: bool = False,
) -> Row:
    """Scores a source's map for every selected frame.

    Args:
        name: name of the row.
        videos: from `selection.select`.
        folder: where finished videos are stored and resumed from, or None.
        workers: scoring threads; 0 for one per core.
        quantisation: whether to compute the effect of 8 bits on the scores of float maps.

    Raises InputError if the source does not yield a map for every selected frame.
    """
    dataset = truth.dataset
    scorer, store = Scorer(truth, protocol), None
    if folder is not None:
        made_by = (
            source.identity(),
            sorted(dataclasses.asdict(protocol).items()),
            dataset.folder,
            dataset.split,
            truth.seed,
            truth.digest(),
            quantisation,
        )
        store = Store(folder, repr(made_by))
    workers = workers or os.cpu_count() or 1
    finished = []
    total = sum(len(video.positions) for video in videos)
    with (
        ThreadPoolExecutor(workers) as pool,
        tqdm(total=total, desc=f'{dataset.name}: {name}', unit='frame', disable=None) as bar,
    ):
        for video in videos:
            scores = store.load(video.name) if store else None
            if scores is None or not np.array_equal(scores.positions, video.positions):
                score = partial(scorer.score, quantisation=quantisation)
                scores = _score_video(source, score, video, pool, 2 * workers, bar)
                if store:
                    store.save(scores)
            else:
                bar.update(len(video.positions))
            finished.append(scores)
    return Row(name, dataset.name, dataset.split, finished)


def _score_video(source, score, video, pool, in_flight, bar) -> VideoScores:
    """Scores one video, with at most `in_flight` maps in memory."""
    results: list[FrameScore] = []
    waiting: deque[Future[FrameScore]] = deque()

    def collect():
        results.append(waiting.popleft().result())
        bar.update()

    examples = video.examples.tolist()
    try:
        for i, saliency in enumerate(source.maps(video)):
            if i == len(examples):
                raise InputError(f'{video.name}: more maps than its {len(examples)} frames')
            waiting.append(pool.submit(score, examples[i], saliency))
            if len(waiting) > in_flight:
                collect()
        while waiting:
            collect()
    finally:
        for future in waiting:
            future.cancel()
    if len(results) != len(examples):
        raise InputError(
            f'{video.name}: {len(results)} maps for its {len(examples)} selected frames'
        )
    undefined = np.full(len(METRICS), np.nan)
    scores = np.array([r.scores for r in results]).reshape(-1, len(METRICS))
    effect = None
    if any(r.quantisation is not None for r in results):
        effect = np.array(
            [undefined if r.quantisation is None else r.quantisation for r in results]
        )
    problems = [r.problems for r in results]
    return VideoScores(video.name, video.positions, scores, problems, effect)
