"""Common behaviour of all commands: reading arguments, and exit codes."""

import runpy
import subprocess
import sys
from pathlib import Path

import pytest

import stsa_jax
from stsa_jax.commands.main import COMMANDS as COMMANDS_OF_CONSOLE
from stsa_jax.commands.main import console
from stsa_jax.errors import exit_cleanly, with_home
from stsa_jax.models.stsanet import STSANetConfig
from stsa_jax.weights.initial import initial_weights

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    'given, read',
    [
        ('--video=~/clip.mp4', '--video=HOME/clip.mp4'),
        ('~/clip.mp4', 'HOME/clip.mp4'),
        ('~', 'HOME'),
        ('--output=~', '--output=HOME'),
        ('--predictions=ViNet=~/maps', '--predictions=ViNet=HOME/maps'),
        ('--config.init_from=~/a=b.pth', '--config.init_from=HOME/a=b.pth'),
        ('--output=out~', '--output=out~'),
        ('a/~/b', 'a/~/b'),
        ('--source=~nobody-of-this-name/x', '--source=~nobody-of-this-name/x'),
        ('--every=4', '--every=4'),
    ],
)
def test_the_tilde_is_the_users_folder(monkeypatch, given, read):
    monkeypatch.setenv('HOME', '/home/me')
    assert with_home(given) == read.replace('HOME', '/home/me')


COMMANDS = {
    'train.py': ['--config=~/c.py', '--workdir=~/run'],
    'evaluate.py': ['--checkpoint=A=~/a.pth', '--dataset=dhf1k'],
    'predict.py': ['--checkpoint=~/a.pth', '--video=~/a.mp4', '--output=~/out'],
    'demo.py': ['--workdir=~/file/demo'],
    'data.prepare': ['dhf1k', '--source=~/copy', '--data_dir=~/data'],
    'data.inspect': ['dhf1k', '--data_dir=~/data', '--output=~/out.png'],
    'data.fixations': ['dhf1k', '--source=~/copy', '--output=~/out'],
    'stsa_jax.port': ['~/a.pth', '~/out'],
    'experiments.ablations': ['--workdir=~/file/run', '--rows=full'],
}


@pytest.mark.parametrize('command', COMMANDS)
def test_every_command_expands_its_paths(command, tmp_path, monkeypatch, capsys):
    """Each names the missing file in the user's folder; nothing is created beside it."""
    home, here = tmp_path / 'home', tmp_path / 'here'
    home.mkdir()
    here.mkdir()
    (home / 'file').write_text('')  # where a folder would be made
    monkeypatch.setenv('HOME', str(home))
    monkeypatch.chdir(here)
    monkeypatch.setattr(sys, 'path', [str(ROOT), *sys.path])  # pytest's own way asks pkg_resources
    monkeypatch.setattr(sys, 'argv', [command, *COMMANDS[command]])
    with pytest.raises(SystemExit) as ended:
        if command.endswith('.py'):
            runpy.run_path(str(ROOT / command), run_name='__main__')
        else:
            runpy.run_module(command, run_name='__main__', alter_sys=False)
    told = capsys.readouterr().err
    assert ended.value.code == 2 and str(home) in told, told
    assert '~' not in told.replace('~/tensorflow_datasets', '')
    assert not list(here.iterdir()) and sorted(p.name for p in home.iterdir()) == ['file']


def run_console(monkeypatch, *arguments):
    monkeypatch.setattr(sys, 'argv', ['/bin/stsa-jax', *arguments])
    with pytest.raises(SystemExit) as ended:
        console()
    return ended.value.code


@pytest.mark.parametrize(
    'arguments',
    [
        ['serve', 'a.pth', '--folder=gs://bucket/it'],
        ['evaluate', '--checkpoint=a.pth', '--dataset=dhf1k', '--submission=gs://bucket/it'],
        ['train', '--config=configs/tiny.py', '--workdir=run', '--profile=gs://bucket/it'],
    ],
)
def test_what_needs_a_folder_refuses_storage_at_once(arguments, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    code = run_console(monkeypatch, *arguments)
    told = capsys.readouterr().err
    assert code == 2
    assert told.startswith('error: gs://bucket/it: this is written to a folder'), told
    assert not list(tmp_path.iterdir())  # no folder gs: either


@pytest.mark.parametrize('command', COMMANDS_OF_CONSOLE)
def test_the_console_command_runs_each_of_them(command, monkeypatch, capsys):
    """Their help names the command as it was typed."""
    assert run_console(monkeypatch, command, '--help') == 0
    assert capsys.readouterr().out.startswith(f'usage: stsa-jax {command} ')


def test_the_console_command_passes_arguments_and_exit_codes_on(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv('HOME', str(tmp_path))
    given = ('--checkpoint=~/a.pth', '--video=~/a.mp4', f'--output={tmp_path / "out"}')
    assert run_console(monkeypatch, 'predict', *given) == 2
    assert f'error: {tmp_path}/a.mp4' in capsys.readouterr().err
    assert run_console(monkeypatch, 'predict', '--checkpoint=a') == 2
    assert '--video and --output missing; see stsa-jax predict --help' in capsys.readouterr().err


def test_the_console_command_by_itself(monkeypatch, capsys):
    assert run_console(monkeypatch) == run_console(monkeypatch, '--help') == 0
    told = capsys.readouterr().out
    assert all(f'\n  {command} ' in told for command in COMMANDS_OF_CONSOLE)
    assert run_console(monkeypatch, '--version') == 0
    assert capsys.readouterr().out == f'stsa-jax {stsa_jax.__version__}\n'
    assert run_console(monkeypatch, 'predcit') == 2
    assert 'error: predcit: not a command; there are predict, train' in capsys.readouterr().err


def test_the_help_of_the_console_command_is_fast():
    """It imports none of the commands, and so not JAX."""
    program = 'import sys; from stsa_jax.commands import main; print(main.usage())'
    program += '; assert not {"jax", "numpy", "absl"} & {*sys.modules}'
    subprocess.run([sys.executable, '-c', program], cwd=ROOT, check=True, capture_output=True)


def test_paths_in_a_config_file(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv('HOME', str(tmp_path))
    config = STSANetConfig(image_size=(32, 64), frames=16, width=0.125)
    monkeypatch.setattr(sys, 'argv', ['train.py'])
    with pytest.raises(SystemExit):
        exit_cleanly(lambda: initial_weights(config, init_from='~/weights.pth'))
    assert f'{tmp_path}/weights.pth' in capsys.readouterr().err
