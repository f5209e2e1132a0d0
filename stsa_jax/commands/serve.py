"""Predicts videos in the browser: `stsa-jax serve`; needs the extra `serve`.

    stsa-jax serve STSANet_DHF1K.pth d123s_rc4_rc1T.pth

Then open http://127.0.0.1:8000: drop a video, and see its saliency. Programs use the addresses that
http://127.0.0.1:8000/docs lists. Jobs are kept in --folder, and a server that is started again has
them. There are no accounts: whoever reaches the server can see and delete all videos, so it listens
on this machine only, unless --host says otherwise.
"""

import argparse
import sys
from pathlib import Path

from stsa_jax.commands.flags import Parser, positive
from stsa_jax.errors import InputError, command
from stsa_jax.files import output_folder, refuse_remote
from stsa_jax.lock import locked_folder
from stsa_jax.ops import cpu


def run() -> None:
    """The command."""
    main(sys.argv[1:])


def main(arguments: list[str]) -> None:
    """Serves until it is interrupted."""
    options = parse(arguments)
    refuse_remote(options.folder)
    models = named(options.models)
    try:
        import uvicorn

        from stsa_jax.serving import app, settings, work
    except ModuleNotFoundError as error:
        if error.name not in ('uvicorn', 'fastapi', 'python_multipart', 'starlette'):
            raise
        raise InputError(
            f"serve needs {error.name}, which is not installed: pip install 'stsa-jax[serve]'"
        ) from error
    cpu.set_up()
    limits = settings.Limits(
        upload_bytes=options.max_megabytes * 10**6,
        seconds=options.max_seconds,
        disk_bytes=options.disk_gigabytes * 10**9,
        jobs=options.max_jobs,
    )
    import jax

    loaded = work.Models(models)
    for name in models:
        loaded.on(
            jax.local_devices()[0], name
        )  # bad weights are told now, not to who sends the first video
    hosts = ['localhost', '127.0.0.1', '[::1]', options.host, *options.allow_host]
    if options.host in ('0.0.0.0', '::') and not options.allow_host:
        raise InputError(
            f'--host={options.host}: name what people will call this server, such as '
            '--allow_host=gpu1.example.org; requests for other names are refused'
        )
    folder = output_folder(options.folder)
    with locked_folder(folder):
        made = app.make_app(loaded, folder, limits, hosts=hosts)
        print(f'serving {", ".join(models)}: http://{options.host}:{options.port}', flush=True)
        uvicorn.run(
            made,
            host=options.host,
            port=options.port,
            log_level='warning',
            timeout_graceful_shutdown=3,
        )


def parse(arguments: list[str]) -> argparse.Namespace:
    """The options. Raises InputError for what cannot be used."""
    parser = Parser(prog=command('stsa-jax serve'), description=__doc__)
    add = parser.add_argument
    add('models', nargs='+', metavar='MODEL', help='weights, as for predict --checkpoint')
    add('--host', default='127.0.0.1', help='address to listen on; default: this machine only')
    add('--port', type=positive, default=8000)
    add(
        '--allow_host',
        action='append',
        default=[],
        metavar='NAME',
        help='another name of this server in requests; may be given several times',
    )
    add('--folder', default='runs/serve', help='of the jobs')
    add('--max_megabytes', type=positive, default=500, help='of one video file')
    add('--max_seconds', type=positive, default=600, help='of one video')
    add('--max_jobs', type=positive, default=100, help='that wait or run')
    add('--disk_gigabytes', type=positive, default=20, help='of all jobs together')
    return parser.parse_args(arguments)


def named(paths: list[str]) -> dict[str, str]:
    """The models by name: that of the file, or folder, without its ending."""
    names: dict[str, str] = {}
    for path in paths:
        name = Path(path).resolve().stem
        if name in names:
            raise InputError(f'{names[name]} and {path}: two models of one name; rename one')
        names[name] = path
    return names
