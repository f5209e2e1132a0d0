"""The server's addresses, as a FastAPI application.

GET    /                                    the page
GET    /health                              state, models, jobs, disk
POST   /videos                              a form with the file `video` -> a job
GET    /videos                              all jobs
GET    /videos/{id}                         one job
GET    /videos/{id}/events                  its progress, as server-sent events
GET    /videos/{id}/{file}                  a result: see `stsa_jax.serving.work`
GET    /videos/{id}/frames/{n}/map.png      the map of the frame with this number
GET    /videos/{id}/frames/{n}/attention.png?x=0.5&y=0.5
DELETE /videos/{id}                         ends and removes a job
GET    /docs, /openapi.json                 these addresses in full
"""

import asyncio
import dataclasses
import json
import re
import shutil
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

import jax
from fastapi import FastAPI, HTTPException, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import FileResponse, StreamingResponse

import stsa_jax
from stsa_jax.errors import InputError, explain_os_error
from stsa_jax.inference.devices import default_devices
from stsa_jax.serving import work
from stsa_jax.serving.jobs import DONE, FAILED, QUEUED, RESULTS, RUNNING, UPLOAD, Job, Jobs
from stsa_jax.serving.settings import Limits
from stsa_jax.serving.uploads import BadUpload, Form, TooLarge

PAGE = Path(__file__).parent / 'page'
_PAGE_FILES = {
    '': ('index.html', 'text/html'),
    'docs': ('docs.html', 'text/html'),
    'page.js': ('page.js', 'text/javascript'),
    'docs.js': ('docs.js', 'text/javascript'),
    'page.css': ('page.css', 'text/css'),
}
_POLL, _HEARTBEAT = 0.2, 10.0  # seconds
# Only what the server itself sends runs on its pages.
_POLICY = "default-src 'self'; img-src 'self' data:; frame-ancestors 'none'; base-uri 'none'"
_FORM = {
    'requestBody': {
        'required': True,
        'content': {
            'multipart/form-data': {
                'schema': {
                    'type': 'object',
                    'required': ['video'],
                    'properties': {
                        'video': {'type': 'string', 'format': 'binary'},
                        'model': {'type': 'string', 'description': 'default: the first one'},
                        'start': {'type': 'string', 'description': 'seconds, or hh:mm:ss'},
                        'end': {'type': 'string', 'description': 'likewise'},
                        'every': {
                            'type': 'integer',
                            'description': 'predict each n-th frame, interpolate between',
                        },
                        'allow_truncated': {
                            'type': 'boolean',
                            'description': 'use the undamaged frames of a damaged video',
                        },
                    },
                }
            }
        },
    }
}


def make_app(
    models: work.Models,
    folder: Path,
    limits: Limits,
    *,
    hosts: Sequence[str] = ('localhost', '127.0.0.1', '[::1]'),
    devices: Sequence[jax.Device] | None = None,
) -> FastAPI:
    """The application; its jobs are in `folder`, and each of `devices` runs one at a time.

    Requests for other `hosts` are refused, as are those that pages of other servers send.
    """
    jobs = Jobs(folder)
    devices = list(devices or default_devices())
    names = list(models.paths)
    drawing = asyncio.Lock()  # of one figure at a time

    @asynccontextmanager
    async def running(app: FastAPI) -> AsyncIterator[None]:
        jobs.start([work.worker(models, device) for device in devices])
        try:
            yield
        finally:
            await run_in_threadpool(jobs.close)  # at its next frame a job ends

    app = FastAPI(
        title='STSA-Net in JAX: saliency of videos',
        version=stsa_jax.__version__,
        lifespan=running,
        docs_url=None,  # ours needs nothing from other servers
        redoc_url=None,
    )
    app.state.jobs = jobs

    @app.middleware('http')
    async def guard(request: Request, respond: Any) -> Response:
        host = request.headers.get('host', '')
        if re.sub(r':\d+$', '', host) not in hosts:
            return _problem(403, f'this server is not called {host[:100]}; see --allow_host')
        origin = request.headers.get('origin')
        if origin and origin.partition('://')[2] != host:
            return _problem(403, 'this request was sent by the page of another server')
        response = await respond(request)
        response.headers['Content-Security-Policy'] = _POLICY
        response.headers['X-Content-Type-Options'] = 'nosniff'
        return response

    def job_of(job_id: str) -> Job:
        if job := jobs.get(job_id):
            return job
        raise HTTPException(404, f'there is no job {job_id[:40]}')

    def finished(job_id: str) -> tuple[Job, Path]:
        job = job_of(job_id)
        if job.state != DONE:
            raise HTTPException(409, f'the job is {job.state}; its results come when it is done')
        return job, jobs.folder(job_id) / RESULTS

    def described(job: Job) -> dict[str, Any]:
        told = dataclasses.asdict(job) | {'before': jobs.place(job.id)}
        if job.state == DONE:
            told['files'] = {name: f'/videos/{job.id}/{name}' for name in work.FILES}
        return told

    @app.get('/health')
    def health() -> dict[str, Any]:
        """Whether the server works, what it has, and how busy it is."""
        states = [job.state for job in jobs.listed()]
        return {
            'status': 'ok',
            'models': names,
            'devices': [str(device.device_kind) for device in devices],
            'jobs': {s: states.count(s) for s in (QUEUED, RUNNING, DONE, FAILED)},
            'disk': {'used': jobs.used_bytes(), 'allowed': limits.disk_bytes},
            'limits': dataclasses.asdict(limits),
        }

    @app.post('/videos', status_code=202, openapi_extra=_FORM)
    async def post_video(request: Request, response: Response) -> dict[str, Any]:
        """Takes a video, and answers with its job, which waits in the queue."""
        stated = request.headers.get('content-length', '')
        _check_room(jobs, limits, int(stated) if stated.isdecimal() else 0)
        target = jobs.new_folder()
        job = None
        try:
            kind = request.headers.get('content-type', '')
            form = Form(kind, target / UPLOAD, limits.upload_bytes)
            await form.read(request.stream())
            _check_room(jobs, limits, 0)
            model = form.fields.pop('model', '') or names[0]
            if model not in names:
                raise InputError(f'there is no model {model!r}; there are {", ".join(names)}')
            if unknown := form.fields.keys() - {*work.OPTIONS}:
                raise InputError(f'unknown fields: {", ".join(sorted(unknown))}')
            options = {k: v for k, v in form.fields.items() if v}
            total = await run_in_threadpool(work.checked, target, options, limits)
            job = jobs.add(target, form.filename, model, options, total)
        except TooLarge:
            raise HTTPException(413, _too_large(limits)) from None
        except BadUpload as error:
            raise HTTPException(400, str(error)) from error
        except InputError as error:
            told = str(error).replace(str(target / UPLOAD), form.filename)
            raise HTTPException(422, told) from error
        except OSError as error:
            raise HTTPException(507, explain_os_error(error)) from error
        finally:
            if job is None:
                shutil.rmtree(target, ignore_errors=True)
        response.headers['Location'] = f'/videos/{job.id}'
        return described(job)

    @app.get('/videos')
    def list_videos() -> list[dict[str, Any]]:
        """All jobs, oldest first."""
        return [described(job) for job in jobs.listed()]

    @app.get('/videos/{job_id}')
    def get_video(job_id: str) -> dict[str, Any]:
        """A job: its state, progress, and the addresses of its results."""
        return described(job_of(job_id))

    @app.delete('/videos/{job_id}', status_code=204)
    def delete_video(job_id: str) -> None:
        """Removes a job, its video and its results; a running one is ended."""
        if not jobs.delete(job_id):
            raise HTTPException(404, f'there is no job {job_id[:40]}')

    @app.get('/videos/{job_id}/events')
    def get_events(job_id: str) -> StreamingResponse:
        """Server-sent events `progress`: the job whenever it changes, until it has ended."""
        job_of(job_id)

        async def events() -> AsyncIterator[str]:
            last, quiet = '', 0.0
            while True:
                job = jobs.get(job_id)
                if job is None:
                    yield 'event: deleted\ndata: {}\n\n'
                    return
                told = json.dumps(described(job))
                if told != last:
                    last, quiet = told, 0.0
                    yield f'event: progress\ndata: {told}\n\n'
                if job.state in (DONE, FAILED):
                    return
                await asyncio.sleep(_POLL)
                quiet += _POLL
                if quiet > _HEARTBEAT:
                    quiet = 0.0
                    yield ': still here\n\n'

        headers = {'Cache-Control': 'no-cache', 'X-Accel-Buffering': 'no'}
        return StreamingResponse(events(), media_type='text/event-stream', headers=headers)

    @app.get('/videos/{job_id}/frames/{number}/map.png')
    def get_map(job_id: str, number: int) -> Response:
        """The 8-bit map of a frame, at the size of the video."""
        _, results = finished(job_id)
        rows = json.loads((results / 'statistics.json').read_text())['frames']
        index = next((i for i, row in enumerate(rows) if row['number'] == number), None)
        if index is None:
            raise HTTPException(404, f'the video has no map of a frame {number}')
        return Response(work.picture(results, index), media_type='image/png')

    @app.get('/videos/{job_id}/frames/{number}/attention.png')
    async def get_attention(
        job_id: str,
        number: int,
        x: Annotated[float, Query(ge=0, lt=1)] = 0.5,
        y: Annotated[float, Query(ge=0, lt=1)] = 0.5,
    ) -> Response:
        """A figure of where a place of a frame attends, at (x, y) as fractions of its size."""
        job, _ = finished(job_id)
        if not job.results.get('attention'):
            raise HTTPException(404, f'the model {job.model} has no attention in time')

        def draw() -> bytes:
            with tempfile.TemporaryDirectory(dir=jobs.folder(job_id)) as place:
                path = Path(place) / 'attention.png'
                model = models.on(devices[0], job.model)
                with jax.default_device(devices[0]):
                    folder = jobs.folder(job_id)
                    work.attention(model, folder, job.options, number, (x, y), path)
                return path.read_bytes()

        try:
            async with drawing:
                content = await run_in_threadpool(draw)
        except InputError as error:
            raise HTTPException(404, str(error)) from error
        return Response(content, media_type='image/png')

    @app.get('/videos/{job_id}/{file}')
    def get_file(job_id: str, file: str) -> FileResponse:
        """A result of a finished job."""
        if file not in work.FILES:
            raise HTTPException(404, f'there is no {file[:40]}; there are {", ".join(work.FILES)}')
        job, results = finished(job_id)
        name = f'{Path(job.name).stem}-{file}'
        return FileResponse(
            results / file,
            media_type=work.FILES[file],
            filename=name,
            content_disposition_type='inline',
        )

    @app.get('/{file}', include_in_schema=False)
    def get_page(file: str) -> FileResponse:
        if file not in _PAGE_FILES:
            raise HTTPException(404, 'no such page')
        name, kind = _PAGE_FILES[file]
        return FileResponse(PAGE / name, media_type=kind)

    @app.get('/', include_in_schema=False)
    def get_index() -> FileResponse:
        return get_page('')

    return app


def _check_room(jobs: Jobs, limits: Limits, upload: int) -> None:
    if upload > limits.upload_bytes + 10_000:  # the form's other parts
        raise HTTPException(413, _too_large(limits))
    if jobs.unfinished() >= limits.jobs:
        raise HTTPException(429, f'{limits.jobs} jobs wait already; try again later')
    if jobs.used_bytes() + 2 * upload > limits.disk_bytes:
        raise HTTPException(
            507, 'the disk space of this server is used up: delete videos that are done'
        )


def _too_large(limits: Limits) -> str:
    return f'the file is larger than {limits.upload_bytes:,} bytes; send a shorter or smaller one'


def _problem(status: int, detail: str) -> Response:
    body = json.dumps({'detail': detail})
    return Response(body, status_code=status, media_type='application/json')
