"""The builders through TFDS's own interfaces: command line, `tfds.data_source`, Apache Beam."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from tensorflow_datasets.proto import tf_example_pb2

import data
from data.copies import images
from data.preparation import features
from data.preparation.registry import load_builder
from stsa_jax.errors import InputError
from tests import data_copies as copies

ROOT = Path(__file__).parents[1]
LENGTHS = {f'Walk-Front-{i:03d}': 3 + i for i in range(1, 12)}


@pytest.fixture
def copy(tmp_path):
    return ucf_sports(tmp_path / 'copy')


def tfds_build(*arguments: str) -> None:
    """`tfds build ...`; the program `tfds` itself needs TensorFlow for another of its commands.

    In a separate process, because its options share absl's flags with our scripts.
    """
    program = """if __name__ == '__main__':
        import sys
        from tensorflow_datasets.scripts.cli import build, cli_utils
        cli_utils.make_flags_parser(build.Args, description='')(sys.argv).execute()
        print('tensorflow' in sys.modules)
        """
    command = [sys.executable, '-c', program, *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == 'False'


def test_command_line_of_tfds(tmp_path, copy):
    tfds_build('data/ucf_sports.py', f'--manual_dir={copy}', f'--data_dir={tmp_path / "out"}')
    train = data.open_split('ucf_sports', 'train', tmp_path / 'out')
    assert {v.name: v.num_frames for v in train.videos} == LENGTHS


def test_a_few_examples_by_tfds(tmp_path, copy):
    tfds_build(
        'data/ucf_sports.py', f'--manual_dir={copy}', f'--data_dir={tmp_path / "out"}',
        '--max_examples_per_split=6', '--config=224x384',
    )  # fmt: skip
    train = data.open_split('ucf_sports', 'train', tmp_path / 'out')
    assert [(v.name, v.num_frames) for v in train.videos] == [
        ('Walk-Front-001', 4),
        ('Walk-Front-002', 2),
    ]


def test_data_source_prepares_and_reads(tmp_path, copy):
    """In a separate process: TFDS registers a builder when its module is first imported."""
    program = f"""if __name__ == '__main__':
        import sys
        import tensorflow_datasets as tfds
        import data.ucf_sports
        config = tfds.download.DownloadConfig(manual_dir={str(copy)!r})
        source = tfds.data_source(
            'ucf_sports/original_png', split='train', data_dir={str(tmp_path / 'out')!r},
            builder_kwargs={{'num_workers': 1}},
            download_and_prepare_kwargs={{'download_config': config}},
        )
        example = source[5]
        print(len(source), example['frame_number'], example['video'], 'tensorflow' in sys.modules)
        """
    done = subprocess.run(
        [sys.executable, '-c', program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == f"{sum(LENGTHS.values())} 2 b'Walk-Front-002' False"
    train = data.open_split('ucf_sports', 'train', tmp_path / 'out')
    np.testing.assert_array_equal(train.frame(5), copies.frame_of(102))


def test_records_are_as_tfds_writes_them():
    image = images.encode_frame(copies.frame_of(5))
    example = {
        'frame': image,
        'density': images.encode_map(copies.density_of(5)),
        'fixations': images.encode_map(copies.fixations_of(5)),
        'annotated': True,
        'video': 'Walk-Front-001',
        'kind': '',
        'frame_number': 7,
    }
    ours = features.serialise(example)
    theirs = features.frame_features().serialize_example(example)
    # Not the bytes: the order of a map's entries is left open.
    assert tf_example_pb2.Example.FromString(ours) == tf_example_pb2.Example.FromString(theirs)
    assert features.parse(theirs) == features.parse(ours) == example


def damaged_dhf1k(root: Path) -> Path:
    copies.dhf1k(root, {1: 4, 2: 3, 601: 3}, 'annotation')
    for name in ('0001/maps/0002.png', '0601/images/0003.png'):
        path = root / 'annotation' / name
        path.write_bytes(path.read_bytes()[:100])
    return root


def diem(root: Path) -> Path:
    return copies.diem_prepared(root, {'one_show': (3, 0), 'ami_ib4010_left': (2, 9), 'a': (2, 20)})


def ucf_sports(root: Path) -> Path:
    shots = {('training', name): (1, n, 20 * n) for name, n in LENGTHS.items()}
    return copies.shots(root, shots, copies.ucf_file)


@pytest.mark.parametrize(
    'make, splits',
    [
        (ucf_sports, ['train']),
        (diem, ['train', 'test', 'test_i', 'test_ii', 'test_iii']),
        (damaged_dhf1k, ['train', 'validation']),
    ],
)
def test_beam_prepares_the_same(tmp_path, make, splits):
    pytest.importorskip('apache_beam', reason='Apache Beam, an extra, is not installed')
    name, copy = make.__name__.removeprefix('damaged_'), make(tmp_path / 'copy')
    builder = load_builder(name, tmp_path / 'beam', size=(32, 64))
    config = tfds.download.DownloadConfig(manual_dir=copy, beam_runner='DirectRunner')
    builder.download_and_prepare(download_config=config)
    here = data.prepare_dataset(name, tmp_path / 'own', copy, num_workers=1, size=(32, 64))
    assert sorted(builder.info.metadata['problems']) == sorted(here.info.metadata['problems'])
    for split in splits:
        by_beam = data.open_split(name, split, tmp_path / 'beam')
        own = data.open_split(name, split, tmp_path / 'own')
        assert by_beam.videos == own.videos
        assert all(by_beam.example(i) == own.example(i) for i in range(len(own)))
    if make is damaged_dhf1k:
        assert any('0002.png: its maps cannot be used' in str(p) for p in builder.problems)
        strict = load_builder(name, tmp_path / 'strict', size=(32, 64), strict=True)
        with pytest.raises(InputError, match='allows none'):
            strict.download_and_prepare(download_config=config)
