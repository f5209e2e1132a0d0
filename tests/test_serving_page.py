"""The page in a real browser: Chromium, without a window."""

import shutil

import numpy as np
import pytest
from test_predict import moving_square
from test_serving import serving

from stsa_jax.media import video

NAMES = ('chromium', 'chromium-browser', 'google-chrome')
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), '')


DROP = """(bytes) => {
  const dropped = new DataTransfer();
  dropped.items.add(new File([new Uint8Array(bytes)], 'dropped.mp4', { type: 'video/mp4' }));
  const how = { dataTransfer: dropped, bubbles: true, cancelable: true };
  document.getElementById('drop').dispatchEvent(new DragEvent('drop', how));
}"""


@pytest.fixture(scope='module')
def browser():
    if not CHROMIUM:
        pytest.skip('there is no Chromium here (Debian: apt-get install chromium)')
    sync_api = pytest.importorskip('playwright.sync_api')
    with sync_api.sync_playwright() as play:
        made = play.chromium.launch(executable_path=CHROMIUM, args=['--no-sandbox'])
        yield made
        made.close()


@pytest.fixture(scope='module')
def served(tmp_path_factory):
    with serving(tmp_path_factory.mktemp('jobs')) as client:
        yield client


@pytest.fixture(scope='module')
def film(tmp_path_factory):
    path = tmp_path_factory.mktemp('in') / 'film.mp4'
    video.write_video(path, moving_square(17, (48, 80)), 25)
    return path


def opened(browser, served, **how):
    context = browser.new_context(**how)
    page = context.new_page()
    page.problems = []
    page.on('pageerror', lambda error: page.problems.append(str(error)))
    page.on('console', lambda told: told.type == 'error' and page.problems.append(told.text))
    page.goto(f'http://127.0.0.1:{served.port}/')
    return page


def picture(page):
    """The pixels that are shown, uint8 (h, w, 4)."""
    size, pixels = page.evaluate(
        """() => {
          const canvas = document.getElementById('picture');
          const { width, height } = canvas;
          const data = canvas.getContext('2d').getImageData(0, 0, width, height).data;
          return [[height, width], Array.from(data)];
        }"""
    )
    return np.array(pixels, np.uint8).reshape(*size, 4)


def red_at(pixels):
    """The middle column of the red square of the film."""
    red = pixels[..., 0].astype(int) - pixels[..., 2]
    return np.argwhere(red > 100).mean(0)[1]


def at_frame(page, number):
    page.wait_for_function(f"() => document.getElementById('frame').value.startsWith('{number},')")


@pytest.mark.slow
def test_from_the_drop_to_the_map(browser, served, film):
    page = opened(browser, served)
    with page.expect_file_chooser() as chooser:
        page.keyboard.press('Tab')
        page.keyboard.press('Tab')
        assert page.evaluate('document.activeElement.id') == 'drop'
        page.keyboard.press('Enter')  # with the keyboard
    chooser.value.set_files(str(film))
    page.wait_for_selector('#viewer:not([hidden])')
    at_frame(page, 1)
    assert page.evaluate('document.activeElement.id') == 'picture'
    # The frame and the overlay are of one decoded picture; the square moves by 4 pixels a frame.
    page.locator('#opacity').fill('0')
    for number in range(2, 6):
        page.keyboard.press('Tab') if number == 2 else None
        page.locator('#picture').press('ArrowRight')
        at_frame(page, number)
        assert abs(red_at(picture(page)) - (4 * (number - 1) + 4.5)) < 1.5
    plain = picture(page)
    page.locator('#opacity').fill('100')
    assert (picture(page) != plain).any()
    page.locator('#picture').press('Enter')
    page.wait_for_function("() => document.getElementById('map').naturalWidth === 80")
    assert 'Map of frame 5' in page.locator('#map-title').inner_text()
    assert page.locator('#attention-box').is_hidden()  # this model has none
    page.locator('#curve').click(position={'x': 4, 'y': 20})
    at_frame(page, 1)
    page.locator('#picture').press(' ')  # plays to the end
    at_frame(page, 17)
    names = page.locator('#files a').all_inner_texts()
    assert names == ['overlay.mp4', 'maps.zip', 'maps.npz', 'maps.mkv', 'statistics.json']
    page.reload()  # the jobs are still there
    page.get_by_role('button', name='Show film.mp4').click()
    at_frame(page, 1)
    page.get_by_role('button', name='Delete film.mp4').click()
    page.wait_for_selector('#jobs li', state='detached')
    assert page.locator('#viewer').is_hidden()
    page.evaluate(DROP, list(film.read_bytes()))
    page.wait_for_selector('#viewer:not([hidden])')
    assert page.problems == []


@pytest.mark.slow
def test_on_a_phone_and_what_is_refused(browser, served, film, tmp_path):
    phone = {'viewport': {'width': 360, 'height': 640}, 'has_touch': True, 'is_mobile': True}
    page = opened(browser, served, **phone)
    notes = tmp_path / 'notes.mp4'
    notes.write_text('not a video')
    page.locator('#file').set_input_files([str(notes)])
    page.wait_for_function(
        "() => document.getElementById('problem').textContent.includes('notes.mp4')"
    )
    assert 'FFmpeg cannot read it as a video' in page.locator('#problem').inner_text()
    page.locator('summary').tap()
    page.locator('#model').select_option('attentive')
    page.locator('#file').set_input_files([str(film)])
    page.wait_for_selector('#viewer:not([hidden])')
    at_frame(page, 1)
    assert page.evaluate('document.documentElement.scrollWidth <= window.innerWidth')
    for name in ('play', 'back', 'forward'):  # large enough for a finger
        box = page.locator(f'#{name}').bounding_box()
        assert min(box['width'], box['height']) >= 44
    page.locator('#picture').tap()
    page.wait_for_function("() => document.getElementById('map').naturalWidth === 80")
    page.wait_for_function("() => document.getElementById('attention').naturalWidth > 600")
    assert page.locator('#attention-title').inner_text().endswith('from the top attends')


@pytest.mark.slow
def test_the_page_for_programs(browser, served):
    page = opened(browser, served)
    page.get_by_role('link', name='For programs').click()
    page.wait_for_selector('#paths tr')
    assert 'POST /videos' in page.locator('#paths').inner_text() and page.problems == []
