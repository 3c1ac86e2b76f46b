"""The drawn data set: determinism, balance, outlines, caching, preparation by two processes."""

import os
import subprocess
import sys

import numpy as np
import pytest

from byoljax.data.sources import built_in, drawing, shapes


@pytest.fixture
def small(monkeypatch):
  """Shrinks the splits, so that drawing and writing take no time."""
  monkeypatch.setattr(shapes, 'SPLITS', {'train': 40, 'test': 20})


def test_same_arguments_same_picture():
  first, label = shapes.draw(0, 'train', 7)
  again, label_again = shapes.draw(0, 'train', 7)
  assert first.shape == (32, 32, 3) and first.dtype == np.uint8
  assert first.flags.c_contiguous
  np.testing.assert_array_equal(first, again)
  assert label == label_again


@pytest.mark.parametrize('other', [(1, 'train', 7), (0, 'test', 7), (0, 'train', 8)])
def test_seed_split_and_index_each_change_the_picture(other):
  first, _ = shapes.draw(0, 'train', 7)
  second, _ = shapes.draw(*other)
  assert np.abs(first.astype(int) - second).mean() > 2


def test_every_ten_neighbors_hold_every_class_in_changing_order():
  labels = np.array([shapes._label(0, 'train', i) for i in range(300)]).reshape(30, 10)
  np.testing.assert_array_equal(np.sort(labels, 1), np.tile(np.arange(10), (30, 1)))
  assert len({tuple(row) for row in labels}) > 20


def test_names_and_sizes():
  assert len(shapes.CLASS_NAMES) == len(set(shapes.CLASS_NAMES)) == 10
  assert shapes.SPLITS == {'train': shapes.NUM_TRAIN, 'test': shapes.NUM_TEST}


def test_unknown_split_names_the_valid_ones():
  with pytest.raises(ValueError, match="'train' or 'test'"):
    shapes.draw(0, 'tset', 0)
  with pytest.raises(ValueError, match="'train' or 'test'"):
    shapes.arrays('tset')
  with pytest.raises(ValueError, match='negative'):
    shapes.draw(0, 'train', -1)


# Areas in units of radius squared, by elementary geometry.
@pytest.mark.parametrize(
  ('name', 'area'),
  [
    ('circle', np.pi * 0.9**2),
    ('square', 1.56**2),
    ('triangle', 3 * np.sqrt(3) * 0.62**2),
    ('cross', 2 * 2.0 * 0.64 - 0.64**2),
    ('ring', np.pi * (0.97**2 - 0.53**2)),
    ('heart', 1.24**2 + np.pi * 0.62**2),
    ('bar', 2.24 * 0.6),
    ('star', 10 * 0.5 * 1.12 * 0.46 * np.sin(np.pi / 5)),
  ],
)
def test_area_of_outline(name, area):
  axis = (np.arange(1000) + 0.5) / 1000 * 2.8 - 1.4
  x, y = np.meshgrid(axis.astype(np.float32), axis.astype(np.float32))
  inside = drawing.OUTLINES[name](x, y) < 0
  assert inside.mean() * 2.8**2 == pytest.approx(area, rel=5e-3)
  assert not inside[0].any() and not inside[:, 0].any()


@pytest.mark.parametrize('name', drawing.OUTLINES)
def test_distance_is_one_to_one_near_the_outline(name):
  """Anti-aliasing needs |gradient| = 1 where the distance is about zero."""
  axis = ((np.arange(1000) + 0.5) / 1000 * 2.8 - 1.4).astype(np.float32)
  x, y = np.meshgrid(axis, axis)
  distance = drawing.OUTLINES[name](x, y)
  rows, columns = np.gradient(distance.astype(np.float64), 0.0028)
  slope = np.hypot(rows, columns)[np.abs(distance) < 0.02]
  assert np.median(slope) == pytest.approx(1, abs=1e-2)


def test_edges_are_softened():
  assert drawing.coverage(np.float32(0)) == 0.5
  np.testing.assert_allclose(
    drawing.coverage(np.float32([-0.3, -0.125, 0.125, 0.3])), [1, 0.75, 0.25, 0]
  )


def test_contact_sheet_has_one_row_for_each_class():
  sheet = shapes.contact_sheet(columns=3)
  assert sheet.shape == (342, 104, 3)
  for index in range(30):
    image, label = shapes.draw(shapes.SEED, 'train', index)
    top, left = 2 + 34 * label, 2 + 34 * (index // 10)
    np.testing.assert_array_equal(sheet[top : top + 32, left : left + 32], image)


def test_published_pictures_do_not_change():
  """A change of the drawing needs a new VERSION, for prepared files would not show it."""
  sheet = shapes.contact_sheet(columns=4).astype(np.float64)
  assert shapes.VERSION == '1.0.0'
  np.testing.assert_allclose(sheet.mean((0, 1)), [152.397, 147.255, 156.709], atol=0.02)


def test_mean_color_says_nothing_about_the_class():
  examples = [shapes.draw(0, 'train', i) for i in range(600)]
  means = np.stack([image.mean((0, 1)) / 255 for image, _ in examples])
  labels = np.array([label for _, label in examples])
  between = np.stack([means[labels == c].mean(0) for c in range(10)]).var(0)
  assert (between < 0.06 * means.var(0)).all()


def test_arrays_are_cached_and_equal_to_draw(small, tmp_path):
  images, labels = shapes.arrays('train', str(tmp_path))
  assert images.shape == (40, 32, 32, 3) and images.dtype == np.uint8
  assert labels.shape == (40,) and labels.dtype == np.int32
  image, label = shapes.draw(shapes.SEED, 'train', 33)
  np.testing.assert_array_equal(images[33], image)
  assert labels[33] == label
  (path,) = (tmp_path / 'shapes_arrays').iterdir()
  path.write_bytes(path.read_bytes()[:1000])  # A torn file is drawn again.
  np.testing.assert_array_equal(shapes.arrays('train', str(tmp_path))[0], images)
  np.testing.assert_array_equal(np.load(path)['images'], images)


def test_arrays_without_a_writable_directory(small, tmp_path):
  (tmp_path / 'file').write_text('not a directory')
  images, _ = shapes.arrays('test', str(tmp_path / 'file'))
  assert len(images) == 20


def test_environment_variable_chooses_the_directory(monkeypatch, tmp_path):
  monkeypatch.setenv('BYOLJAX_DATA', str(tmp_path / 'here'))
  assert built_in.default_data_dir() == str(tmp_path / 'here')
  monkeypatch.delenv('BYOLJAX_DATA')
  assert built_in.default_data_dir() == os.path.expanduser('~/.cache/byoljax')


def test_unwritable_directory_is_one_sentence(tmp_path):
  (tmp_path / 'file').write_text('not a directory')
  with pytest.raises(ValueError, match='BYOLJAX_DATA'):
    shapes.prepare(str(tmp_path / 'file' / 'below'))


_PREPARE = """
import sys
from byoljax.data.sources import shapes
shapes.SPLITS = {'train': 40, 'test': 20}
print(shapes.prepare(sys.argv[1]))
"""


@pytest.mark.slow
def test_two_processes_prepare_at_once(tmp_path, small, capfd):
  tfds = pytest.importorskip('tensorflow_datasets', reason='TensorFlow Datasets is not installed')
  runs = [
    subprocess.Popen(
      [sys.executable, '-c', _PREPARE, str(tmp_path)],
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )
    for _ in range(2)
  ]
  outputs = [run.communicate(timeout=300) for run in runs]
  path = str(tmp_path / 'shapes' / shapes.VERSION)
  # Nothing but our own line, from either of them.
  assert outputs == [(path + '\n', '')] * 2
  assert [run.returncode for run in runs] == [0, 0]
  assert shapes.prepare(str(tmp_path)) == path

  builder = tfds.builder_from_directory(path)
  assert builder.info.splits['train'].num_examples == 40
  assert tuple(builder.info.features['label'].names) == shapes.CLASS_NAMES
  images, labels = shapes.arrays('test', str(tmp_path))
  stored = list(builder.as_dataset(split='test').as_numpy_iterator())
  np.testing.assert_array_equal(np.stack([e['image'] for e in stored]), images)
  np.testing.assert_array_equal([e['label'] for e in stored], labels)


def test_drawing_needs_no_tensorflow(tmp_path):
  code = (
    'import sys; from byoljax.data.sources import shapes; shapes.draw(0, "train", 0);'
    'print([m for m in ("tensorflow", "tensorflow_datasets", "jax") if m in sys.modules])'
  )
  output = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
  assert output.stdout == '[]\n'
