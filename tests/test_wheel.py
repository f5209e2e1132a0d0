"""The modules as a wheel has them, without a checkout; .ci/installed.py has the real wheel."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
from setuptools import Distribution

ROOT = Path(__file__).parents[1]
PROGRAM = """
import sys
sys.path.insert(0, {site!r})
sys.modules.update(dict.fromkeys(('data', 'train', 'evaluate', 'predict')))  # importing them fails
import stsa_jax
assert stsa_jax.__file__.startswith({site!r})

from stsa_jax import data
from stsa_jax.commands import main
from stsa_jax.data.prepare import parse
from stsa_jax.data.preparation.registry import BUILDERS, load_builder
assert data.open_split.__module__ == 'stsa_jax.data.videos'
assert parse(['dhf1k']).dataset == 'dhf1k'
for name in BUILDERS:
    assert load_builder(name, 'nowhere').name == name

from stsa_jax.configuration import load_config
assert load_config('configs/ablations.py:unet,tiny').model.stsa_levels == ()
assert load_config('mine.py', ['--config.batch_size=5']).batch_size == 5
assert not [name for name in sys.modules if name.split('.')[0] == 'configs']
try:
    load_config('configs/typo.py')
except ValueError as error:
    print(error)
"""


@pytest.fixture(scope='module')
def build():
    spec = importlib.util.spec_from_file_location('setup', ROOT / 'setup.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_data_and_configs_import_as_parts_of_the_library(tmp_path, build):
    """A user's config may import `configs` as in a checkout."""
    site = tmp_path / 'site'
    for package in ('stsa_jax', *build.MOVED):
        to = site / build.MOVED.get(package, package).replace('.', '/')
        for path in (ROOT / package).rglob('*.py'):
            copy = to / path.relative_to(ROOT / package)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_text(build.moved(path.read_text(), str(path)))
    mine = 'from configs import tiny\n\ndef get_config():\n    return tiny.get_config()\n'
    (tmp_path / 'mine.py').write_text(mine)
    program = PROGRAM.format(site=str(site))
    done = subprocess.run(
        [sys.executable, '-c', program], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert 'configs/typo.py: there is no such config file; available:' in done.stdout
    assert 'configs/tiny.py' in done.stdout


def test_the_wheel_names_the_command_instead_of_scripts(build):
    source = 'from data import windows\nimport data\n# python train.py, python -m data.prepare\n'
    assert build.moved(source, 'a.py') == (
        'from stsa_jax.data import windows\nfrom stsa_jax import data\n'
        '# stsa-jax train, stsa-jax prepare\n'
    )
    assert build.moved('from database import x\nmy_data = data\n', 'a.py').startswith('from datab')
    with pytest.raises(ValueError, match=r'a\.py:1'):
        build.moved('import data.windows', 'a.py')


@pytest.mark.parametrize(
    'command, expected',
    [
        ('editable_wheel', ['data', 'configs']),
        ('bdist_wheel', ['stsa_jax.data', 'stsa_jax.configs']),
    ],
)
def test_an_editable_installation_is_the_checkout_itself(build, command, expected):
    distribution = Distribution({'name': 'a', 'version': '1', 'packages': ['data', 'configs']})
    distribution.commands = [command]
    build.Wheel(distribution).ensure_finalized()
    assert distribution.packages == expected
