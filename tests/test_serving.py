"""The server, as a real one on this machine: uploads, progress, results, refusals, kills, fuzz."""

import http.client
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import av
import numpy as np
import pytest
import uvicorn
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from serving_app import app
from test_predict import moving_square

from stsa_jax.inference.concentration import describe
from stsa_jax.media import video
from stsa_jax.serving.jobs import Jobs
from stsa_jax.serving.settings import Limits

SCRIPT = Path(__file__).parent / 'serving_app.py'
BOUNDARY = 'a-boundary'


class Client:
    def __init__(self, port):
        self.port = port

    def ask(self, method, path, body=None, **headers):
        """(status, headers, content)."""
        connection = http.client.HTTPConnection('127.0.0.1', self.port, timeout=60)
        named = {name.replace('_', '-'): value for name, value in headers.items()}
        connection.request(method, path, body, named)
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()

    def json(self, method, path, body=None, expect=200, **headers):
        status, _, content = self.ask(method, path, body, **headers)
        assert status == expect, content
        return json.loads(content) if content else None

    def post(self, content, name='film.mp4', expect=202, **fields):
        kind = f'multipart/form-data; boundary={BOUNDARY}'
        return self.json(
            'POST', '/videos', form(content, name, **fields), expect, content_type=kind
        )

    def wait(self, job, state='done'):
        for _ in range(2400):
            found = self.json('GET', f'/videos/{job["id"]}')
            if found['state'] in (state, 'failed', 'done'):
                assert found['state'] == state, found
                return found
            time.sleep(0.05)
        raise AssertionError(found)


def form(content, name='film.mp4', **fields):
    parts = [
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{key}"\r\n\r\n{value}\r\n'.encode()
        for key, value in fields.items()
    ]
    head = f'Content-Disposition: form-data; name="video"; filename="{name}"'
    parts.append(f'--{BOUNDARY}\r\n{head}\r\n\r\n'.encode() + content + b'\r\n')
    return b''.join(parts) + f'--{BOUNDARY}--\r\n'.encode()


@contextmanager
def serving(folder, seconds=0.0, limits=None):
    config = uvicorn.Config(app(folder, seconds, limits), port=0, log_level='error')
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield Client(server.servers[0].sockets[0].getsockname()[1])
    finally:
        server.should_exit = True
        thread.join(30)


@pytest.fixture(scope='module')
def film(tmp_path_factory):
    path = tmp_path_factory.mktemp('in') / 'film.mp4'
    video.write_video(path, moving_square(17, (48, 80)), 25)
    return path.read_bytes()


@pytest.fixture(scope='module')
def served(tmp_path_factory):
    folder = tmp_path_factory.mktemp('served')
    limits = Limits(upload_bytes=50_000, seconds=2.0, pixels=100_000)
    with serving(folder, limits=limits) as client:
        client.folder = folder
        yield client


def files_of(client, job):
    return {name: client.ask('GET', address)[2] for name, address in job['files'].items()}


def test_from_a_video_to_its_results(served, film):
    job = served.post(film, 'my film.mp4', every=2)
    assert job['state'] in ('queued', 'running', 'done') and job['total'] == 17
    status, headers, content = served.ask('GET', f'/videos/{job["id"]}/events')
    assert status == 200 and headers['content-type'].startswith('text/event-stream')
    told = [json.loads(line[6:]) for line in content.decode().splitlines() if line[:5] == 'data:']
    counts = [event['done'] for event in told]
    assert told[-1]['state'] == 'done' and counts == sorted(counts) and counts[-1] == 17
    job = served.wait(job)
    assert job['name'] == 'my film.mp4' and job['model'] == 'red'
    found = files_of(served, job)
    with zipfile.ZipFile(io.BytesIO(found['maps.zip'])) as archive:
        assert archive.namelist() == [f'{n:04d}.png' for n in range(1, 18)]
        levels = [np.asarray(Image.open(archive.open(name))) for name in archive.namelist()]
    row, column = np.argwhere(levels[8] > 200).mean(0)
    assert abs(row - 24.5) < 4 and abs(column - (4 * 8 + 4.5)) < 6  # the square of frame 9
    arrays = np.load(io.BytesIO(found['maps.npz']))
    assert arrays['interpolated'].tolist() == [bool(i % 2) for i in range(17)]
    with av.open(io.BytesIO(found['maps.mkv'])) as file:
        np.testing.assert_array_equal([f.to_ndarray() for f in file.decode(video=0)], levels)
    for name, rows in (('overlay.mp4', 48), ('player.mp4', 96)):
        with av.open(io.BytesIO(found[name])) as file:
            sizes = [(f.height, f.width) for f in file.decode(video=0)]
        assert sizes == [(rows, 80)] * 17
    statistics = json.loads(found['statistics.json'])['frames']
    assert [row['number'] for row in statistics] == list(range(1, 18))
    assert statistics[8]['concentration'] == pytest.approx(
        describe(levels[8]).concentration, abs=1e-5
    )
    status, _, picture = served.ask('GET', f'/videos/{job["id"]}/frames/9/map.png')
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(picture))), levels[8])
    assert served.ask('GET', f'/videos/{job["id"]}/frames/99/map.png')[0] == 404
    assert served.ask('GET', f'/videos/{job["id"]}/frames/9/attention.png')[0] == 404  # has none
    assert served.ask('DELETE', f'/videos/{job["id"]}')[0] == 204
    assert served.ask('GET', f'/videos/{job["id"]}')[0] == 404
    assert not (served.folder / job['id']).exists()


def test_attention_of_a_place(served, film):
    job = served.wait(served.post(film, model='attentive', start='0.2'))
    assert job['results']['attention'] and job['results']['frames'] == 12
    address = f'/videos/{job["id"]}/frames/6/attention.png'
    status, _, picture = served.ask('GET', f'{address}?x=0.25&y=0.5')
    assert status == 200 and Image.open(io.BytesIO(picture)).width > 600
    assert served.ask('GET', f'{address}?x=1&y=0.5')[0] == 422
    assert served.ask('GET', address.replace('/6/', '/99/'))[0] == 404
    left = sorted(path.name for path in (served.folder / job['id']).iterdir())
    assert left == ['job.json', 'results', 'upload']


def test_concentration():
    """From its definition, by pixels."""
    levels = np.random.default_rng(0).integers(0, 256, (12, 20)).astype(np.uint8)
    shares = levels[levels > 0] / levels.sum()
    entropy = -(shares * np.log(shares)).sum()
    found = describe(levels)
    assert found.concentration == pytest.approx(1 - entropy / np.log(240))
    ys, xs = np.indices(levels.shape)
    centre = ((xs + 0.5) * levels).sum() / levels.sum(), ((ys + 0.5) * levels).sum() / levels.sum()
    np.testing.assert_allclose(found.centre, np.array(centre) / (20, 12))
    point = np.zeros((4, 8), np.uint8)
    point[1, 6] = 9
    assert describe(point) == (1.0, (6.5 / 8, 1.5 / 4), (6.5 / 8, 1.5 / 4))
    assert describe(np.full((4, 8), 7, np.uint8)).concentration == pytest.approx(0)
    assert describe(np.zeros((4, 8), np.uint8)).concentration == 0


def refused(client, status, words, content, **fields):
    detail = client.post(content, expect=status, **fields)['detail']
    assert words in detail, detail
    assert str(getattr(client, 'folder', '/nowhere')) not in detail  # the server's own paths


def test_what_cannot_be_predicted_is_refused_with_the_reason(served, film, tmp_path):
    before = sorted(served.folder.iterdir())
    refused(served, 422, 'notes.mp4: FFmpeg cannot read it', b'not a video', name='notes.mp4')
    half = film[: len(film) * 9 // 10]
    refused(served, 422, 'film.mp4: is truncated after', half)
    job = served.wait(served.post(half, allow_truncated='true'))
    assert 0 < job['results']['frames'] < 17
    assert served.ask('DELETE', f'/videos/{job["id"]}')[0] == 204
    refused(served, 422, "no model 'blue'", film, model='blue')
    refused(served, 422, 'unknown fields: colour', film, colour='1')
    refused(served, 422, 'every is 0', film, every='0')
    refused(served, 422, 'expected seconds', film, start='soon')
    refused(served, 422, 'no frame from 9 s', film, start='9')
    unknown = film.replace(b'avc1', b'zzz1')
    refused(served, 422, 'in a way that this FFmpeg does not know', unknown)
    refused(served, 413, 'larger than 50,000 bytes', bytes(60_000))
    video.write_video(tmp_path / 'long.mp4', moving_square(3, (48, 80)), 1)
    refused(served, 422, 'lasts 3.0 s', (tmp_path / 'long.mp4').read_bytes())
    video.write_video(tmp_path / 'large.mp4', [np.zeros((300, 400, 3), np.uint8)], 25)
    refused(served, 422, '400x300', (tmp_path / 'large.mp4').read_bytes())
    assert sorted(served.folder.iterdir()) == before  # nothing is left


def test_bad_requests(served, film):
    kind = f'multipart/form-data; boundary={BOUNDARY}'
    for body, sent_as, words in (
        (b'x', 'text/plain', 'multipart/form-data'),
        (b'', kind, 'breaks off'),
        (form(film)[:-40], kind, 'breaks off'),
        (form(film).replace(b'name="video"', b'name="other"'), kind, 'longer than'),
        (form(b'x') + b'\r\n', 'multipart/form-data', 'multipart/form-data'),
        (
            form(b'x').replace(b'name="video"', b'name="' + b'v' * 2000),
            kind,
            'a header of the form',
        ),
    ):
        answer = served.json('POST', '/videos', body, 400, content_type=sent_as)
        assert words in answer['detail'], answer
    for path in ('/videos/none', '/videos/..%2f..%2fetc', '/videos/none/events', '/nothing'):
        assert served.ask('GET', path)[0] == 404
    assert served.ask('DELETE', '/videos/none')[0] == 404


def test_a_form_without_end_is_refused(served):
    """No part of it is too large, and its length is not told beforehand."""
    part = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="a"\r\n\r\nb\r\n'.encode()
    connection = http.client.HTTPConnection('127.0.0.1', served.port, timeout=60)
    kind = f'multipart/form-data; boundary={BOUNDARY}'
    connection.request(
        'POST', '/videos', iter([part * 100] * 30), {'Content-Type': kind}, encode_chunked=True
    )
    assert connection.getresponse().status == 413


def test_other_hosts_and_pages_of_others_are_refused(served, film):
    assert served.ask('GET', '/health', host='evil.example')[0] == 403
    other = {'origin': 'http://evil.example', 'host': f'127.0.0.1:{served.port}'}
    assert served.ask('POST', '/videos', form(film), **other)[0] == 403
    assert served.ask('GET', '/health', **{**other, 'origin': f'http://{other["host"]}'})[0] == 200


def test_files_of_other_folders_are_not_served(served, film):
    job = served.wait(served.post(film))
    for path in ('upload', 'job.json', '..%2fjob.json', '%2e%2e/job.json', '/etc/passwd'):
        assert served.ask('GET', f'/videos/{job["id"]}/{path}')[0] in (404, 422), path


def test_health_and_the_pages(served):
    health = served.json('GET', '/health')
    assert health['status'] == 'ok' and health['models'] == ['red', 'attentive']
    assert health['limits']['upload_bytes'] == 50_000
    for path, words in (('/', b'Drop a video'), ('/docs', b'/openapi.json'), ('/page.js', b'POST')):
        status, headers, content = served.ask('GET', path)
        assert status == 200 and words in content
        assert "default-src 'self'" in headers['content-security-policy']
    schema = served.json('GET', '/openapi.json')
    assert {'/videos', '/videos/{job_id}/events', '/health'} <= schema['paths'].keys()
    assert 'multipart/form-data' in schema['paths']['/videos']['post']['requestBody']['content']


def test_parallel_uploads_run_one_after_the_other(tmp_path, film):
    with serving(tmp_path / 'jobs', seconds=0.002) as client:
        seen, watching = [], threading.Event()

        def watch():
            while not watching.is_set():
                seen.append([job['state'] for job in client.json('GET', '/videos')])
                time.sleep(0.01)

        watcher = threading.Thread(target=watch)
        watcher.start()
        with ThreadPoolExecutor(8) as pool:
            posted = list(pool.map(lambda i: client.post(film, f'{i}.mp4'), range(8)))
        jobs = [client.wait(job) for job in posted]
        watching.set()
        watcher.join()
    assert len({job['id'] for job in jobs}) == 8
    assert max(states.count('running') for states in seen) == 1
    assert all(job['results']['frames'] == 17 for job in jobs)


def test_deleting_a_running_and_a_waiting_job(tmp_path, film):
    with serving(tmp_path / 'jobs', seconds=0.05) as client:
        first, second, third = (client.post(film, f'{i}.mp4') for i in range(3))
        while client.json('GET', f'/videos/{first["id"]}')['done'] < 2:
            time.sleep(0.01)
        assert client.json('GET', f'/videos/{third["id"]}')['before'] == 1
        answer = client.ask('GET', f'/videos/{first["id"]}/overlay.mp4')
        assert answer[0] == 409 and b'the job is running' in answer[2]
        for job in (first, second):
            assert client.ask('DELETE', f'/videos/{job["id"]}')[0] == 204
        client.wait(third)
        assert [p.name for p in (tmp_path / 'jobs').iterdir()] == [third['id']]


def test_the_disk_is_measured_while_folders_come_and_go(tmp_path):
    jobs, stop = Jobs(tmp_path), threading.Event()
    (tmp_path / 'kept').write_bytes(bytes(100))

    def come_and_go():
        while not stop.is_set():
            (tmp_path / 'a' / 'b').mkdir(parents=True)
            (tmp_path / 'a' / 'b' / 'c').write_bytes(bytes(50))
            shutil.rmtree(tmp_path / 'a')

    other = threading.Thread(target=come_and_go)
    other.start()
    try:
        found = {jobs.used_bytes() for _ in range(2000)}
    finally:
        stop.set()
        other.join()
    assert found <= {100, 150}


def test_limits_on_jobs_and_disk(tmp_path, film):
    with serving(tmp_path / 'a', seconds=0.2, limits=Limits(jobs=2)) as client:
        client.post(film), client.post(film)
        refused(client, 429, '2 jobs wait already', film)
    with serving(tmp_path / 'b', limits=Limits(disk_bytes=len(film) + 1000)) as client:
        refused(client, 507, 'delete videos that are done', film)


def start_process(port, folder, seconds):
    command = [sys.executable, str(SCRIPT), str(port), str(folder), str(seconds)]
    process = subprocess.Popen(command, env={**os.environ, 'XLA_FLAGS': ''})
    client = Client(port)
    for _ in range(600):
        try:
            client.json('GET', '/health')
            return process, client
        except (ConnectionError, OSError):
            assert process.poll() is None
            time.sleep(0.1)
    raise AssertionError('the server does not start')


def test_a_killed_server_loses_no_job(tmp_path, film):
    """Killed in the middle of the second of three jobs, with an upload under way."""
    with serving(tmp_path / 'other') as other:  # a port that is free now
        port = other.port
    process, client = start_process(port, tmp_path / 'jobs', 0.02)
    try:
        first, second, third = (client.post(film, f'{i}.mp4') for i in range(3))
        before = files_of(client, client.wait(first))
        while client.json('GET', f'/videos/{second["id"]}')['done'] < 5:
            time.sleep(0.01)
        half = http.client.HTTPConnection('127.0.0.1', port)
        half.putrequest('POST', '/videos')
        half.putheader('Content-Type', f'multipart/form-data; boundary={BOUNDARY}')
        half.putheader('Content-Length', str(len(form(film))))
        half.endheaders(form(film)[:1000])
        time.sleep(0.1)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    left = {path.name for path in (tmp_path / 'jobs').iterdir()}
    process, client = start_process(port, tmp_path / 'jobs', 0.0)
    try:
        assert client.json('GET', f'/videos/{first["id"]}')['state'] == 'done'
        assert files_of(client, client.wait(first)) == before
        resumed = client.wait(second)
        assert resumed['results']['frames_resumed'] >= 4
        assert files_of(client, resumed).keys() == before.keys()
        for name, content in files_of(client, resumed).items():  # as if nothing had happened
            if name not in ('maps.zip', 'maps.npz'):  # which state when they were made
                assert content == before[name], name
        client.wait(third)
        jobs = {job['id'] for job in (first, second, third)}
        assert {path.name for path in (tmp_path / 'jobs').iterdir()} == jobs < left
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) in (0, -signal.SIGTERM)
    finally:
        process.kill()


@settings(
    deadline=None, max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_fuzzed_uploads(served, film, data):
    """Damaged videos and forms: an answer that says why, and nothing left behind."""
    where = data.draw(st.sampled_from(['video', 'form', 'all']))
    content = bytearray(film if where == 'video' else form(film))
    if where == 'all':
        content = bytearray(data.draw(st.binary(max_size=300)))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, max(0, len(content) - 1)))
        action = data.draw(st.sampled_from(['change', 'cut', 'insert', 'remove']))
        if action == 'change' and content:
            content[at] ^= data.draw(st.integers(1, 255))
        elif action == 'cut':
            del content[at:]
        elif action == 'insert':
            content[at:at] = data.draw(st.binary(min_size=1, max_size=20))
        else:
            del content[at : at + data.draw(st.integers(1, 200))]
    body = form(bytes(content)) if where == 'video' else bytes(content)
    kind = f'multipart/form-data; boundary={BOUNDARY}'
    before = {path.name for path in served.folder.iterdir()}
    status, _, answer = served.ask('POST', '/videos', body, content_type=kind)
    assert status == 202 or (400 <= status < 500 and json.loads(answer)['detail']), answer
    left = {path.name for path in served.folder.iterdir()}
    if status == 202:
        job = json.loads(answer)
        assert left - before == {job['id']}
        assert served.ask('DELETE', f'/videos/{job["id"]}')[0] == 204
    else:
        assert left <= before
    assert served.json('GET', '/health')['status'] == 'ok'
