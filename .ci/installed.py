"""Builds sdist and wheel, installs them in fresh environments, and uses them there.

    python .ci/installed.py [--python=3.11,3.12,3.13] [--folder=DIR]

With the first Python it prepares a dataset, trains ten steps, predicts a video, scores maps and
ports weights, by the installed command and outside the checkout. With the others it imports every
module. Needs uv, and a package index; Pythons that are not on this machine are reported.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
UV = (sys.executable, '-m', 'uv')
INDEXES = {
    'UV_DEFAULT_INDEX': 'PIP_INDEX_URL',
    'UV_INDEX': 'PIP_EXTRA_INDEX_URL',
    'UV_FIND_LINKS': 'PIP_FIND_LINKS',
}
TORCH = 'torch==2.13.0'  # as in the Makefile: this release has a CPU build
IMPORT_ALL = """
import importlib, importlib.metadata, importlib.util, pkgutil, stsa_jax
assert 'site-packages' in stsa_jax.__file__, stsa_jax.__file__
assert not any(map(importlib.util.find_spec, ('data', 'configs', 'train', 'predict')))
assert any(f.name == 'LICENSE' for f in importlib.metadata.files('stsa-jax'))
found = [m.name for m in pkgutil.walk_packages(stsa_jax.__path__, 'stsa_jax.')]
for name in found:
    importlib.import_module(name)
assert {'stsa_jax.data.dhf1k', 'stsa_jax.commands.train'} <= {*found}, found
print(f'{len(found)} modules of stsa_jax {stsa_jax.__version__}')
"""
VIDEO = """
import numpy as np
from stsa_jax.media.video import write_video
frames = np.random.default_rng(0).integers(0, 256, (20, 48, 80, 3), np.uint8)
write_video('clip.mp4', frames, 25)
"""
SAME = """
import numpy as np
from safetensors.numpy import load_file
first, last = load_file('first.safetensors'), load_file('d.safetensors')
assert first.keys() == last.keys()
assert all(np.array_equal(first[name], last[name]) for name in first)
print(f'ok: {len(first)} arrays are the same after four conversions')
"""
SMALL = [
    '--config=configs/tiny.py',
    '--config.model.image_size=32,64',
    '--config.model.width=0.125',
    '--config.data.data_dir=data_dir',
]


def main() -> int:
    """Runs the check; returns 1 if something failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--python', default='3.11,3.12,3.13', help='versions, the first used most')
    parser.add_argument('--folder', help='where to work; default: a temporary folder')
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(options.folder or temporary).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        run(*UV, 'build', '--quiet', '--out-dir', folder / 'dist', ROOT, where=folder)
        (wheel,) = (folder / 'dist').glob('*.whl')
        first, *others = options.python.split(',')
        environment = installed(f'{wheel}[port,hub,onnx,serve]', first, folder / 'first')
        if environment is None:
            return 1
        use(environment, folder / 'used')
        lacking = [
            v for v in others if installed(f'{wheel}[hub,onnx,serve]', v, folder / v) is None
        ]
        if lacking:
            print(f'NOT run, these Pythons are not on this machine: {", ".join(lacking)}')
    return 0


def installed(what: str | Path, version: str, folder: Path) -> Path | None:
    """The `bin` of a fresh environment with `what`, imported; None without such a Python."""
    run(*UV, 'pip', 'compile', '--quiet', '--python-version', version, '--all-extras',
        ROOT / 'pyproject.toml', '--output-file', f'{folder}.txt', where=folder.parent)  # fmt: skip
    print(f'Python {version}: all extras resolve')
    interpreter = found(version)
    if interpreter is None:
        return None
    run(interpreter, '-m', 'venv', '--clear', folder, where=folder.parent)
    torch = [TORCH] if '[port' in str(what) else []
    python = folder / 'bin' / 'python'
    install = [*UV, 'pip', 'install', '--quiet', '--python', python]
    run(*install, what, *torch, where=folder.parent)
    run(python, '-c', IMPORT_ALL, where=folder.parent)
    return folder / 'bin'


def found(version: str) -> str | None:
    """A Python of this version: the running one, of the search path, or of pyenv."""
    here = Path.home() / '.pyenv' / 'versions'
    known = [*here.glob(f'{version}.*/bin/python'), shutil.which(f'python{version}')]
    for path in (sys.executable, *filter(None, known)):
        program = 'import sys; print("%d.%d" % sys.version_info[:2])'
        done = subprocess.run([path, '-c', program], capture_output=True, text=True)
        if done.stdout.strip() == version:
            return str(path)
    return None


def use(environment: Path, folder: Path) -> None:
    """Goes through the commands in an empty folder."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()

    def stsa_jax(*arguments: str) -> None:
        run(environment / 'stsa-jax', *arguments, where=folder)

    stsa_jax('--version')
    stsa_jax('prepare', 'stsa_synthetic', '--data_dir=data_dir', '--size=32x64')
    few = ['--config.num_steps=10', '--config.batch_size=2', '--config.checkpoint_every=10']
    stsa_jax('train', *SMALL, *few, '--workdir=run')
    run(environment / 'python', '-c', VIDEO, where=folder)
    stsa_jax('predict', '--checkpoint=run', '--video=clip.mp4', '--output=predicted')
    expect(len([*(folder / 'predicted' / 'maps').glob('*.png')]) == 20, 'a map for each frame')
    dataset = ['--dataset=stsa_synthetic', '--split=test', '--data_dir=data_dir']
    stsa_jax('evaluate', '--workdir=run', *dataset, '--submission=maps')
    stsa_jax('evaluate', '--predictions=maps', *dataset, '--every=8', '--output=scores')
    expect((folder / 'scores' / 'report.html').stat().st_size > 1000, 'a report of scores')
    stsa_jax('inspect', 'stsa_synthetic', '--data_dir=data_dir', '--output=sheet.png')
    for source, dest in (('run', 'a.pth'), ('a.pth', 'b.safetensors'), ('b.safetensors', 'c')):
        stsa_jax('port', source, dest)
    stsa_jax('port', 'c', 'd.safetensors')
    stsa_jax('port', 'run', 'first.safetensors')
    run(environment / 'python', '-c', SAME, where=folder)
    stsa_jax('cost', '--checkpoint=a.pth')


def expect(true: bool, what: str) -> None:
    """Prints `what`, or ends with it as an error."""
    if not true:
        sys.exit(f'FAILED: {what}')
    print(f'ok: {what}')


def run(*command: str | Path, where: Path) -> None:
    """Runs a command in `where`, without the checkout on its path; ends if it fails."""
    print('$', *(str(c) if '\n' not in str(c) else '...' for c in command), flush=True)
    environment = {k: v for k, v in os.environ.items() if k not in ('PYTHONPATH', 'VIRTUAL_ENV')}
    environment['JAX_PLATFORMS'] = 'cpu'
    for ours, pips in INDEXES.items():  # as in the Makefile: packages where pip is told to look
        if pips in environment:
            environment.setdefault(ours, environment[pips])
    done = subprocess.run([str(c) for c in command], cwd=where, env=environment)
    if done.returncode:
        sys.exit(f'FAILED with exit code {done.returncode}: {" ".join(map(str, command))[:200]}')


if __name__ == '__main__':
    sys.exit(main())
