"""A self-contained HTML report of an evaluation, without external resources.

Tables, per-video distributions, score over time, the best and worst frames with frame, ground truth
and prediction side by side, and playable clips. Images and clips are embedded in the page.
"""

import base64
import dataclasses
import html
import io
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from stsa_jax.evaluation import charts, statistics, tables
from stsa_jax.evaluation.protocol import LABELS, LOWER_IS_BETTER, METRICS
from stsa_jax.evaluation.records import Row
from stsa_jax.evaluation.selection import Selected, select
from stsa_jax.files import write_atomic
from stsa_jax.media.video import write_video
from stsa_jax.media.visualize import side_by_side

EXAMPLES = 4  # best and worst frames of each model
CLIP_FRAMES = 90
RANKED_BY = 'cc'
# Makes the browser block all external resources.
_POLICY = "default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'"
_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;color:#1b1b1b;margin:2rem auto;max-width:1280px;
padding:0 1.2rem}
h1{font-size:1.5rem;margin-bottom:.2rem}h2{margin-top:2.4rem;border-bottom:1px solid #ddd}
h3{margin:1.6rem 0 .4rem}
table{border-collapse:collapse;font-variant-numeric:tabular-nums;margin:.8rem 0}
th,td{padding:.25rem .8rem;text-align:right;border-bottom:1px solid #eee;vertical-align:top}
th:first-child,td:first-child{text-align:left}
td small{display:block;color:#666;font-weight:400;white-space:nowrap}
tr.published td{color:#666;font-style:italic}
.best{font-weight:700}
.real{font-weight:700}
.grid{display:grid;grid-template-columns:repeat(auto-fill,minmax(340px,1fr));gap:1rem 1.4rem}
svg{width:100%;font:11px system-ui,sans-serif}
figure{margin:0 0 1rem}figure img,figure video{width:100%;display:block;background:#000}
figcaption{font-size:.85rem;color:#444}
.pictures{display:grid;grid-template-columns:repeat(auto-fill,minmax(520px,1fr));gap:.6rem 1.2rem}
.legend span{margin-right:1.2rem;display:inline-block}
.legend i{display:inline-block;width:.8em;height:.8em;margin-right:.35em;border-radius:50%}
.notes{background:#f6f6f4;padding:.7rem 1rem;border-left:4px solid #999}
.warning{border-left-color:#d55e00;background:#fdf3ec;font-weight:600}
details{margin:.6rem 0}summary{cursor:pointer}
@media (max-width:600px){.pictures{grid-template-columns:1fr}table{display:block;overflow-x:auto}}
"""


def write(results: tables.Results, path: str | os.PathLike) -> None:
    """Writes the page atomically."""
    write_atomic(path, page(results))


def page(results: tables.Results) -> str:
    """The page as a string."""
    body = [
        '<h1>Saliency evaluation</h1>',
        f'<p>Protocol <b>{_h(results.protocol.name)}</b>: {_h(results.protocol.about)}.</p>',
        *(f'<p class="notes warning">{_h(n)}</p>' for n in results.notes if 'PARTIAL' in n),
    ]
    for dataset in results.datasets:
        name = f'{dataset[0]}, {dataset[1]}{results.partial(dataset)}'
        body.append(f'<h2>{_h(name)}</h2>')
        body += _dataset(results, dataset)
    body.append('<h2>What the numbers mean</h2><div class="notes">')
    body += [f'<div>{_h(line.strip())}</div>' for line in tables.protocol_lines(results)]
    body.append('</div>')
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<title>Saliency evaluation</title><style>{_STYLE}</style></head>'
        f'<body>{"".join(body)}</body></html>\n'
    )


def _dataset(results: tables.Results, dataset) -> Iterator[str]:
    rows = results.of(dataset)
    bold = ' Bold: the best model.' if sum(row.name in results.models for row in rows) > 1 else ''
    yield f'<p>{tables.counted(rows[0])}.{bold}</p>'
    yield _table(results, dataset)
    yield _differences(results, dataset)
    yield '<h3>Videos</h3><p>One dot per video; below, the mean with its interval.</p>'
    yield charts.legend(rows)
    found = [results.estimates(row) for row in rows]
    yield '<div class="grid">'
    for i, (metric, label) in enumerate(zip(METRICS, LABELS)):
        yield charts.distribution(_named(metric, label), rows, i, [f[metric] for f in found])
    yield '</div><h3>Score over time</h3><p>The mean over the videos of at least that length.</p>'
    yield charts.legend(rows)
    yield '<div class="grid">'
    for i, (metric, label) in enumerate(zip(METRICS, LABELS)):
        yield charts.over_time(_named(metric, label), rows, i)
    yield '</div>'
    models = [row for row in rows if row.name in results.models]
    for row in models:
        yield _video_details(results, row)
    source_data = results.sources.get(dataset)
    if source_data is None:
        return
    frames, sources = source_data
    for row in models:
        yield from _examples(row, frames, sources[row.name])
        yield from _clips(row, frames, sources[row.name])


def _table(results, dataset) -> str:
    rows = results.of(dataset)
    found = [results.estimates(row) for row in rows]
    best = {}
    for metric in METRICS:
        values = [f[metric].value for r, f in zip(rows, found) if r.name in results.models]
        values = [v for v in values if v is not None]
        if len(values) > 1:
            best[metric] = min(values) if metric in LOWER_IS_BETTER else max(values)
    head = ''.join(f'<th>{_h(_named(m, label))}</th>' for m, label in zip(METRICS, LABELS))
    lines = [f'<table class="scores"><tr><th></th>{head}<th>dropped</th></tr>']
    for row, estimates in zip(rows, found):
        cells = ''
        for metric in METRICS:
            e = estimates[metric]
            mark = ' class="best"' if e.value is not None and e.value == best.get(metric) else ''
            interval = '' if e.low is None else f'<small>{_ends(e, 3, "")}</small>'
            value = '-' if e.value is None else f'{round(e.value, 4) + 0:.4f}'
            cells += f'<td{mark}>{value}{interval}</td>'
        lines.append(f'<tr><td>{_h(row.name)}</td>{cells}<td>{tables.dropped(row)}</td></tr>')
    for entry in results.published(*dataset):
        cells = ''.join(
            f'<td>{entry.scores[m]:.3f}</td>' if m in entry.scores else '<td></td>' for m in METRICS
        )
        name = f'{_h(entry.model)}, published'
        lines.append(f'<tr class="published"><td>{name}</td>{cells}<td></td></tr>')
    return ''.join([*lines, '</table>'])


def _differences(results, dataset) -> str:
    pairs = results.differences(dataset)
    if not pairs:
        return ''
    head = ''.join(f'<th>{_h(label)}</th>' for label in LABELS)
    lines = [
        '<h3>Differences</h3><p>First minus second, on the same frames; the interval by '
        'bootstrap over videos, p by flipping their signs. Bold: a significant difference, the '
        f'interval excludes zero and p &lt; {1 - statistics.LEVEL:.2f}.</p>',
        f'<table class="differences"><tr><th></th>{head}</tr>',
    ]
    for a, b, by_metric in pairs:
        cells = ''
        for d in by_metric.values():
            if d.value is None:
                cells += '<td>-</td>'
                continue
            detail = (
                '' if d.low is None else f'{_ends(d, tables.digits(d), "+")}<br>{_probability(d.p)}'
            )
            mark = ' class="real"' if d.real else ''
            cells += f'<td{mark}>{tables.signed(d)}<small>{detail}</small></td>'
        lines.append(f'<tr><td>{_h(a)} minus {_h(b)}</td>{cells}</tr>')
    return ''.join([*lines, '</table>'])


def _video_details(results, row: Row) -> str:
    head = ''.join(f'<th>{_h(label)}</th>' for label in LABELS)
    lines = [
        f'<details><summary>{_h(row.name)}, video by video</summary>'
        f'<table class="videos"><tr><th></th>{head}</tr>'
    ]
    for video in row.videos:
        found = results.estimates(dataclasses.replace(row, videos=[video]))
        cells = ''.join(
            '<td>-</td>' if found[m].value is None else f'<td>{found[m].value:.4f}</td>'
            for m in METRICS
        )
        lines.append(f'<tr><td>{_h(video.video)}</td>{cells}</tr>')
    return ''.join([*lines, '</table></details>'])


def _examples(row: Row, frames, source) -> Iterator[str]:
    """The best and the worst frames, from different videos if there are enough."""
    ranked = sorted(
        (float(score), video.video, int(position))
        for video in row.videos
        for position, score in zip(video.positions, video.scores[:, METRICS.index(RANKED_BY)])
        if np.isfinite(score)
    )
    for title, order in (('best', ranked[::-1]), ('worst', ranked)):
        yield f'<h3>{_h(row.name)}: {title} frames by CC</h3><div class="pictures">'
        for score, name, position in _spread(order):
            video = _at(frames, name, [position])
            (saliency,) = source.maps(video)
            yield _figure(
                _jpeg(_picture(frames, video, position, saliency)),
                f'{name}, frame {position + 1}: CC {score:.3f}',
            )
        yield '</div>'


def _clips(row: Row, frames, source) -> Iterator[str]:
    """The first seconds of the best and the worst video, playable."""
    metric = METRICS.index(RANKED_BY)
    means = sorted(
        (float(np.nanmean(v.scores[:, metric])), v.video)
        for v in row.videos
        if np.isfinite(v.scores[:, metric]).any()
    )
    if not means:
        return
    yield f'<h3>{_h(row.name)}: clips</h3><div class="pictures">'
    chosen = {'best video': means[-1], 'worst video': means[0]}
    for title, (score, name) in list(chosen.items())[: len(means)]:
        length = next(v.num_frames for v in frames.videos if v.name == name)
        video = _at(frames, name, range(min(length, CLIP_FRAMES)))
        pictures = (
            _picture(frames, video, position, saliency)
            for position, saliency in zip(video.positions.tolist(), source.maps(video))
        )
        yield _clip(pictures, f'{name}, {title} by CC: mean {score:.3f}')
    yield '</div>'


def _picture(frames, video: Selected, position: int, saliency: np.ndarray) -> np.ndarray:
    example = video.first_example + position
    saliency = np.nan_to_num(np.asarray(saliency, np.float32), posinf=0, neginf=0)
    return side_by_side(
        frames.frame(example), saliency, frames.density(example), frames.fixations(example)
    )


def _at(frames, name: str, positions) -> Selected:
    (video,) = select(frames, videos=[name])
    return dataclasses.replace(video, positions=np.array(list(positions)))


def _spread(order) -> list[tuple[float, str, int]]:
    """The first EXAMPLES of `order`, from different videos if possible."""
    chosen, seen = [], set()
    for entry in order:
        if entry[1] not in seen:
            chosen.append(entry)
            seen.add(entry[1])
    chosen += [entry for entry in order if entry not in chosen]
    return chosen[: min(EXAMPLES, len(order))]


def _jpeg(picture: np.ndarray) -> str:
    out = io.BytesIO()
    Image.fromarray(picture).save(out, 'JPEG', quality=85)
    return f'data:image/jpeg;base64,{base64.b64encode(out.getvalue()).decode()}'


def _figure(data: str, caption: str) -> str:
    text = _h(caption)
    return f'<figure><img src="{data}" alt="{text}"><figcaption>{text}</figcaption></figure>'


def _clip(pictures, caption: str) -> str:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / 'clip.mp4'
        write_video(path, pictures, 25)
        data = base64.b64encode(path.read_bytes()).decode()
    return (
        f'<figure><video controls loop muted preload="auto" src="data:video/mp4;base64,{data}">'
        f'</video><figcaption>{_h(caption)}</figcaption></figure>'
    )


def _ends(interval, digits: int, sign: str) -> str:
    ends = (round(x, digits) + 0 for x in (interval.low, interval.high))  # + 0: no -0.000
    return ' to '.join(format(x, f'{sign}.{digits}f') for x in ends)


def _probability(p: float) -> str:
    return f'p = {p:.3f}' if p >= 0.001 else 'p &lt; 0.001'


def _named(metric: str, label: str) -> str:
    return f'{label} ↓' if metric in LOWER_IS_BETTER else f'{label} ↑'


def _h(text: str) -> str:
    return html.escape(str(text))
