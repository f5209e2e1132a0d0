"""Folders of maps from other programs: file types, names, numbers, intermediate folders."""

import json

import numpy as np
import pytest
import scipy.io
import scipy.sparse
from PIL import Image
from test_evaluation import Frames, from_folder, make_videos, run

from stsa_jax import evaluation
from stsa_jax.errors import InputError
from stsa_jax.evaluation import predictions
from stsa_jax.evaluation.frame_numbers import Numbering, match
from stsa_jax.evaluation.map_files import notes_on, read_map
from stsa_jax.evaluation.selection import select

GREY = (np.arange(20 * 30).reshape(20, 30) * 109.0).astype(np.float32)  # up to 65291


def save_as(path, values):
    """Writes a map in the format of the name's extension; `values` float32 (h, w)."""
    match path.suffix:
        case '.npy':
            np.save(path, values)
        case '.npz':
            np.savez(path, saliency=values)
        case '.mat':
            scipy.io.savemat(path, {'map': values})
        case '.tif':
            Image.fromarray(values).save(path)
        case _:
            Image.fromarray(values.astype(np.uint16)).save(path)


@pytest.mark.parametrize('name', ['a.npy', 'a.npz', 'a.mat', 'a.tif', 'a.png', 'a.TIFF'])
def test_values_of_more_than_8_bits_are_used_as_they_are(tmp_path, name):
    save_as(tmp_path / name, GREY)
    found = read_map(tmp_path / name)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, GREY)
    (said,) = notes_on([(tmp_path / name, (40, 60))])
    assert f'1 of 1 maps inspected, such as {tmp_path / name},' in said
    assert 'more than 8 bits, from 0 to 65291; they are used as they are' in said


def test_maps_whose_rows_and_columns_may_be_swapped_are_reported(tmp_path):
    save_as(tmp_path / 'a.png', GREY)
    save_as(tmp_path / 'b.png', GREY.T)
    videos = [(tmp_path / 'a.png', (224, 336)), (tmp_path / 'b.png', (224, 336))]
    _, told = notes_on(videos)
    assert told.startswith(f'1 of 2 maps inspected, such as {tmp_path / "b.png"}, are 20x30')
    assert 'than the video, 336x224' in told
    assert len(notes_on(videos[:1])) == 1  # on its values


def test_arrays_of_odd_shapes_and_types(tmp_path):
    path = tmp_path / 'a.npy'
    np.save(path, GREY[None, :, :, None])
    np.testing.assert_array_equal(read_map(path), GREY)
    np.save(path, GREY > 99)
    np.testing.assert_array_equal(read_map(path), (GREY > 99) * 255)
    scipy.io.savemat(tmp_path / 'a.mat', {'map': scipy.sparse.csc_matrix(GREY)})
    np.testing.assert_array_equal(read_map(tmp_path / 'a.mat'), GREY)
    np.save(path, np.zeros((5, 20, 30)))
    with pytest.raises(InputError, match=r'a\.npy: an array of .* shape \(5, 20, 30\)'):
        read_map(path)
    np.save(path, np.array([{'code': 1}]), allow_pickle=True)
    with pytest.raises(InputError, match=r'a\.npy: not a readable array'):
        read_map(path)
    np.savez(tmp_path / 'a.npz', first=GREY, second=GREY)
    with pytest.raises(InputError, match=r'a\.npz: not a readable array .*2 arrays: first, second'):
        read_map(tmp_path / 'a.npz')
    (tmp_path / 'a.mat').write_bytes(b'hello')
    with pytest.raises(InputError, match=r'a\.mat: not a readable array'):
        read_map(tmp_path / 'a.mat')


@pytest.fixture(scope='module')
def dataset():
    return Frames(make_videos())


@pytest.fixture(scope='module')
def floats(dataset):
    rng = np.random.default_rng(5)
    return {v.name: list(rng.random((6, 18, 32), np.float32)) for v in dataset.videos}


def write(folder, maps, name='{:04d}.png', start=1):
    """uint8 maps as PNG, others in the format of the name's extension."""
    for video, listed in maps.items():
        (folder / video).mkdir(parents=True)
        for number, saliency in enumerate(listed, start):
            path = folder / video / name.format(number)
            if saliency.dtype == np.uint8:
                Image.fromarray(saliency).save(path)
            else:
                save_as(path, saliency)


@pytest.mark.parametrize('ending', ['.npy', '.npz', '.mat', '.tif'])
@pytest.mark.parametrize('protocol', ['dhf1k', 'paper'])
def test_float_maps_in_files_score_as_the_maps_themselves(
    dataset, floats, tmp_path, ending, protocol
):
    write(tmp_path, floats, '{:04d}' + ending)
    results = evaluation.evaluate(
        [dataset],
        {'files': lambda d, v: evaluation.PredictionFolder(tmp_path, d, v)},
        references=False,
        protocol=protocol,
    )
    direct = run(dataset, floats, references=False, protocol=protocol)
    for a, b in zip(results.rows[0].videos, direct.rows[0].videos):
        np.testing.assert_array_equal(a.scores, b.scores)
    assert any('small: files: 8 of 8 maps' in note and 'as they are' in note
               for note in results.notes), results.notes  # fmt: skip


def test_maps_in_0_to_1_stored_as_integers_are_reported(dataset, floats, tmp_path):
    ones = {name: [np.rint(m).astype(np.uint8) for m in maps] for name, maps in floats.items()}
    write(tmp_path, ones)
    results = from_folder(tmp_path, dataset)
    assert results.rows[0].frames == 18 and not results.rows[0].problems()
    told = [note for note in results.notes if 'nearly binary' in note]
    assert len(told) == 1 and '8 of 8 maps' in told[0] and '(0, 1)' in told[0]
    for written in (evaluation.text(results),):
        assert 'nearly binary' in written


# Each frame's map is its own number, so that what is matched to what can be read off.
def numbered_maps(names, numbers):
    return {name: [np.full((3, 4), n, np.uint8) for n in numbers] for name in names}


def read_off(folder, dataset, **options):
    source = predictions.PredictionFolder(folder, dataset, select(dataset), **options)
    return {v.name: [int(m[0, 0]) for m in source.maps(v)] for v in source.videos}, source


def renumbered(dataset, numbers, names=None):
    """The dataset with these numbers of the frames of each video."""
    made = Frames(make_videos(names or [v.name for v in dataset.videos], frames=len(numbers)))
    made._numbers = list(numbers) * len(made.videos)
    return made


NAMES = ['0001', '0002', '0003']


def all_have(numbers):
    return {name: numbers for name in NAMES}


@pytest.mark.parametrize(
    'name',
    [
        '{:04d}_pred.png',
        '{:d}_s3d.png',
        'frame_{:03d}_224x384.png',
        'img{:05d}_v2.1.png',
        'p3_{}.png',
    ],
)
def test_other_parts_of_a_name_do_not_matter(dataset, tmp_path, name):
    write(tmp_path, numbered_maps(NAMES, range(1, 7)), name)
    found, _ = read_off(tmp_path, dataset)
    assert found == all_have([1, 2, 3, 4, 5, 6])


@pytest.mark.parametrize(
    'between', ['predictions', 'maps', 'results/dhf1k/validation', '0001/maps', 'run_12']
)
def test_intermediate_folders(dataset, tmp_path, between):
    maps = numbered_maps(NAMES, range(1, 7))
    if between == '0001/maps':
        for name in NAMES:
            write(tmp_path / name, {'maps': maps[name]})
    else:
        write(tmp_path / between, maps)
    found, source = read_off(tmp_path, dataset)
    assert found == all_have([1, 2, 3, 4, 5, 6])
    told = [] if between == '0001/maps' else [f'the maps are those in {tmp_path / between}']
    assert [n for n in source.notes if 'maps inspected' not in n] == told


def test_two_folders_of_maps_are_ambiguous(dataset, tmp_path):
    for folder in ('a', 'b'):
        write(tmp_path / folder, numbered_maps(NAMES, range(1, 7)))
    with pytest.raises(InputError, match='2 folders in it hold maps of the videos'):
        read_off(tmp_path, dataset)


@pytest.mark.parametrize(
    'folders, names',
    [
        (['video_1', 'video_2', 'video_3'], NAMES),
        (['0001_maps', '0002_maps', '0003_maps'], NAMES),
        (['1', '2', '3'], ['clip_0001', 'clip_0002', 'clip_0003']),
        (['7_2', '7_10', '8_1'], ['actioncliptest00007_2', 'actioncliptest00007_10',
                                  'actioncliptest00008_1']),
    ],
)  # fmt: skip
def test_videos_by_number_only(tmp_path, folders, names):
    dataset = Frames(make_videos(names))
    for folder, shade in zip(folders, (10, 20, 30)):
        write(tmp_path, numbered_maps([folder], range(shade + 1, shade + 7)))
    found, source = read_off(tmp_path, dataset)
    assert {name: maps[0] for name, maps in found.items()} == dict(zip(names, (11, 21, 31)))
    assert 'folders and videos are matched by the numbers in their names' in source.notes


def test_numbers_that_are_not_a_videos_own_are_not_matched(tmp_path):
    dataset = Frames(make_videos(['Diving-001', 'Golf-001', 'Golf-002']))
    write(tmp_path, numbered_maps(['1', '2', '3'], range(1, 7)))
    with pytest.raises(InputError, match=r'1: no such video in small validation'):
        read_off(tmp_path, dataset)


def test_frames_numbered_from_0(dataset, tmp_path):
    write(tmp_path, numbered_maps(NAMES, range(1, 7)), start=0)
    for allow in (False, True):
        with pytest.raises(InputError, match=r'numbered from 0: --first_frame=0'):
            read_off(tmp_path, dataset, allow_missing=allow)
    found, first = read_off(tmp_path, dataset, numbering=Numbering(first_frame=0))
    assert found == all_have([1, 2, 3, 4, 5, 6])
    # The same files as other frames' are not the same source.
    other = Numbering(first_frame=1, allow_extra=True)
    _, second = read_off(tmp_path, dataset, numbering=other, allow_missing=True)
    assert first.identity() != second.identity()


def test_a_shot_whose_frames_do_not_begin_at_1(dataset, tmp_path):
    shots = renumbered(dataset, range(21, 27))
    write(tmp_path / 'own', numbered_maps(NAMES, range(21, 27)), start=21)
    write(tmp_path / 'from_1', numbered_maps(NAMES, range(21, 27)))
    assert read_off(tmp_path / 'own', shots)[0] == all_have(list(range(21, 27)))
    with pytest.raises(InputError, match=r'numbered from 1: --first_frame=1'):
        read_off(tmp_path / 'from_1', shots)
    found, _ = read_off(tmp_path / 'from_1', shots, numbering=Numbering(first_frame=1))
    assert found == all_have(list(range(21, 27)))


def test_a_map_for_each_position_of_a_video_with_missing_frames(dataset, tmp_path):
    gappy = renumbered(dataset, [1, 2, 4, 5, 6, 9])
    write(tmp_path / 'places', numbered_maps(NAMES, range(1, 10)))
    found, source = read_off(tmp_path / 'places', gappy)
    assert found == all_have([1, 2, 4, 5, 6, 9])
    assert any('left out, of 0001: 3, 7-8; 0002: 3, 7-8' in note for note in source.notes)
    write(tmp_path / 'zero', numbered_maps(NAMES, range(1, 10)), start=0)
    found, _ = read_off(tmp_path / 'zero', gappy, numbering=Numbering(first_frame=0))
    assert found == all_have([1, 2, 4, 5, 6, 9])
    # A last frame that is repeated is beyond what the dataset knows of.
    write(tmp_path / 'longer', numbered_maps(NAMES, range(1, 12)))
    with pytest.raises(InputError, match=r'2 extra maps, of frames 10-11; .* --allow_extra'):
        read_off(tmp_path / 'longer', gappy)
    found, _ = read_off(tmp_path / 'longer', gappy, numbering=Numbering(allow_extra=True))
    assert found == all_have([1, 2, 4, 5, 6, 9])


def test_consecutive_numbers_are_not_frame_numbers_if_frames_have_gaps(dataset, tmp_path):
    gappy = renumbered(dataset, [1, 2, 4, 5, 6, 9])
    write(tmp_path, numbered_maps(NAMES, [1, 2, 4, 5, 6, 9]))  # 0001.png to 0006.png
    for allow in (False, True):
        with pytest.raises(InputError, match=r'frames 3, 7-8 are not in the dataset.*--in_order'):
            read_off(tmp_path, gappy, allow_missing=allow)
    found, _ = read_off(tmp_path, gappy, numbering=Numbering(in_order=True))
    assert found == all_have([1, 2, 4, 5, 6, 9])
    (tmp_path / '0002' / '0006.png').unlink()
    with pytest.raises(InputError, match='5 maps, but 6 frames; --in_order needs'):
        read_off(tmp_path, gappy, numbering=Numbering(in_order=True))


def test_predict_output_for_one_video_is_assigned_to_it(dataset, tmp_path):
    write(tmp_path, {'maps': numbered_maps(['x'], range(1, 7))['x']})
    record = {'video': '/copies/video/002.AVI', 'frames': 6}
    (tmp_path / 'prediction.json').write_text(json.dumps(record))
    (tmp_path / 'overlay.mp4').write_bytes(b'')
    found, source = read_off(tmp_path, dataset, allow_missing=True)
    assert found == {'0002': [1, 2, 3, 4, 5, 6]} and source.missing == 12
    record['video'] = '/copies/annotation/0003/images'
    (tmp_path / 'prediction.json').write_text(json.dumps(record))
    assert list(read_off(tmp_path, dataset, allow_missing=True)[0]) == ['0003']


def test_one_name_each_for_every_frame(tmp_path):
    """A suffix that differs from file to file counts; two files for one number are told."""
    for name in ('1_a.png', '2_a.png', '2_b.png'):
        Image.new('L', (4, 3)).save(tmp_path / name)
    matched = match(tmp_path, [1, 2], Numbering())
    assert matched.problems == [f'{tmp_path / "2_b.png"}: the same frame as 2_a.png']
