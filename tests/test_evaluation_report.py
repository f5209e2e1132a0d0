"""The HTML report: self-contained, escaped, and rendered in a real browser if there is one."""

import re
import shutil
import subprocess

import numpy as np
import pytest
from test_evaluation import Frames, Given, make_videos

from stsa_jax import evaluation
from stsa_jax.evaluation import charts, report

CHROMIUM = next(
    filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome', 'chrome'))),
    None,
)
# Appended to the page: says in the title how many pictures and clips really decoded.
PROBE = """<script>
const media = [...document.querySelectorAll('img, video')];
const good = () => media.filter(m => m.tagName === 'IMG' ? m.complete && m.naturalWidth > 0
  : m.readyState >= 2 && m.videoWidth > 0 && m.duration > 0).length;
const wide = () => document.documentElement.scrollWidth > innerWidth;
const say = () => { document.title = `decoded ${good()} of ${media.length}, wide ${wide()}, ` +
  `svg ${[...document.querySelectorAll('svg')].filter(s => s.getBBox().width > 100).length}`; };
setInterval(say, 100);
</script>"""


@pytest.fixture(scope='module')
def page():
    dataset = Frames(make_videos(frames=8, size=(36, 64)), name='<b>small</b>')
    rng = np.random.default_rng(0)

    def noisy(amount):
        return {
            v.name: [
                dataset.density(v.first_example + i) + amount * rng.random((36, 64))
                for i in range(8)
            ]
            for v in dataset.videos
        }

    first, second = noisy(0.3), noisy(1.5)
    results = evaluation.evaluate(
        [dataset],
        {'good & <quick>': lambda d, v: Given(first), 'poor': lambda d, v: Given(second)},
    )
    return report.page(results)


def test_nothing_is_loaded_and_names_are_escaped(page):
    # The only addresses in it are data; the policy forbids the browser to load anything else.
    assert not re.search(r'(src|href)="(?!data:)', page)
    assert not re.search(r'https?://|url\(|@import', page)
    assert "default-src 'none'" in page
    assert 'good &amp; &lt;quick&gt;' in page
    assert '<quick>' not in page
    assert '<b>small</b>' not in page
    assert page.count('<figure><img') == 2 * 2 * report.EXAMPLES
    assert page.count('<figure><video') == 4


def test_it_says_what_the_table_says(page):
    assert 'protocol dhf1k' in page
    assert 'thresholds in steps of 0.1' in page
    assert 'good &amp; &lt;quick&gt; minus poor' in page
    assert 'poor in 8 bits minus poor in float' in page
    assert page.count('<tr>') == 1 + 4 + 1 + (5 + 2) + 2 * (1 + 3)


def test_lines_over_time_are_means_at_each_frame():
    positions, scores = np.array([0, 4, 0, 4, 8]), np.array([1.0, 2.0, 3.0, np.nan, 5.0])
    x, y = charts.binned(positions, scores)
    assert x.tolist() == [1, 5, 9]
    assert y.tolist() == [2, 2, 5]
    long = charts.binned(np.arange(5000), np.arange(5000.0))
    assert len(long[0]) <= charts.POINTS + 1
    np.testing.assert_allclose(long[0] - 1, long[1])
    assert charts.line_chart('none', {'a': (np.zeros(0), np.zeros(0))}) == ''


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason='no chromium: the page is not opened')
def test_pictures_and_clips_play_in_a_browser(page, tmp_path):
    probed = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', '', page)
    (tmp_path / 'report.html').write_text(probed.replace('</body>', PROBE + '</body>'))
    result = subprocess.run(
        [
            CHROMIUM,
            '--headless=new',
            '--no-sandbox',
            '--disable-gpu',
            f'--user-data-dir={tmp_path / "profile"}',
            '--window-size=1300,900',
            '--virtual-time-budget=10000',
            '--dump-dom',
            (tmp_path / 'report.html').as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=240,
    )
    title = re.search('<title>(.*?)</title>', result.stdout)
    assert title, result.stderr[-2000:]
    assert title[1] == 'decoded 20 of 20, wide false, svg 12'
