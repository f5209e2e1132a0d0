"""--strict: a perfect copy passes, and each single imperfection is an error that names its file."""

import numpy as np
import pytest
import tensorflow_datasets as tfds

import data.prepare
from data.preparation.registry import load_builder
from data.ucf_sports import UcfSports
from stsa_jax.errors import InputError
from tests import data_copies as copies

SHOT = 'training/Walk-Front-001'


@pytest.fixture
def copy(tmp_path, monkeypatch):
    """A complete copy of a dataset with one video per split."""
    monkeypatch.setattr(UcfSports, 'VIDEOS', {'train': 1, 'test': 1})
    shots = {('training', 'Walk-Front-001'): (1, 3, 0), ('testing', 'Walk-Front-002'): (1, 3, 8)}
    return copies.shots(tmp_path / 'copy', shots, copies.ucf_file)


def prepare(copy, *options):
    data.prepare.main([
        'ucf_sports', f'--source={copy}', f'--data_dir={copy.parent / "out"}', '--num_workers=1',
        '--size=32x64', *options,
    ])  # fmt: skip


def map_file(copy, kind: str, number: int = 2):
    return copy / SHOT / kind / f'Walk-Front_001_{number:03d}.png'


def stray(copy):
    path = copy / SHOT / 'maps' / 'notes.doc'
    path.write_bytes(b'')
    return path.name


def damaged_map(copy):
    path = map_file(copy, 'maps')
    path.write_bytes(path.read_bytes()[:100])
    return path.name


def damaged_frame(copy):
    path = map_file(copy, 'images')
    path.write_bytes(path.read_bytes()[:100])
    return path.name


def empty_fixations(copy):
    copies.save(map_file(copy, 'fixation'), np.zeros((copies.HEIGHT, copies.WIDTH), np.uint8))
    return f'{SHOT}/images: 1 frames without any fixation: 2'


def missing_map(copy):
    map_file(copy, 'maps').unlink()
    return f'{SHOT}/images: 1 frames without both maps: 2'


SPOILERS = [stray, damaged_map, damaged_frame, empty_fixations, missing_map]


def test_a_perfect_copy_passes(copy):
    prepare(copy, '--strict')
    assert len(data.open_split('ucf_sports', 'train', copy.parent / 'out')) == 3


@pytest.mark.parametrize('spoil', SPOILERS)
def test_one_imperfection_is_an_error_that_names_it(copy, spoil):
    told = spoil(copy)
    with pytest.raises(InputError, match=r'allows none') as error:
        prepare(copy, '--strict')
    assert told in str(error.value)
    assert not list((copy.parent / 'out').glob('ucf_sports/*/1.0.0'))


def test_a_corrected_copy_passes(copy):
    """Overwritten in place, which does not change the folder's own time."""
    path = map_file(copy, 'maps')
    whole = path.read_bytes()
    damaged_map(copy)
    with pytest.raises(InputError, match=path.name):
        prepare(copy, '--strict')
    path.write_bytes(whole)
    prepare(copy, '--strict')
    train = data.open_split('ucf_sports', 'train', copy.parent / 'out')
    assert copies.check_numbers(train, lambda video, number: number) == 3


def test_strict_refuses_what_was_prepared_leniently(copy):
    told = damaged_map(copy)
    prepare(copy)
    for prepare_again in (
        lambda: prepare(copy, '--strict'),
        lambda: data.prepare_dataset(
            'ucf_sports', copy.parent / 'out', copy, size=(32, 64), strict=True
        ),
    ):
        with pytest.raises(InputError, match=r'was prepared without --strict') as error:
            prepare_again()
        assert told in str(error.value)


def test_a_few_examples_by_tfds_keep_and_check_problems(copy):
    told = damaged_map(copy)
    config = tfds.download.DownloadConfig(manual_dir=copy, max_examples_per_split=3)
    lenient = load_builder('ucf_sports', copy.parent / 'few', num_workers=1)
    lenient.download_and_prepare(download_config=config)
    assert any(told in problem for problem in lenient.info.metadata['problems'])
    strict = load_builder('ucf_sports', copy.parent / 'strict', num_workers=1, strict=True)
    with pytest.raises(InputError, match=told):
        strict.download_and_prepare(download_config=config)
    assert not list((copy.parent / 'strict').glob('*/*/1.0.0'))
