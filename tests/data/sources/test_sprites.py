"""The drawn scenes: determinism, motion and truth that agree, caching, fields as a source."""

import subprocess
import sys

import numpy as np
import pytest

from byoljax.data import fields
from byoljax.data.fields import Field
from byoljax.data.sources import datasets, sprites


@pytest.fixture(scope='module')
def examples():
  return [sprites.draw(0, 'train', i) for i in range(120)]


@pytest.fixture
def small(monkeypatch):
  """Shrinks the splits, so that drawing and writing take no time."""
  monkeypatch.setattr(sprites, 'SPLITS', {'train': 20, 'test': 10})


def test_same_arguments_same_example_and_others_differ():
  first, again = sprites.draw(0, 'train', 7), sprites.draw(0, 'train', 7)
  for name, values in first.items():
    np.testing.assert_array_equal(values, again[name])
  for other in ((1, 'train', 7), (0, 'test', 7), (0, 'train', 8)):
    assert np.abs(first['image'].astype(int) - sprites.draw(*other)['image']).mean() > 2


def test_shapes_and_types_are_those_of_the_fields(examples):
  for field in sprites.FIELDS:
    values = examples[0][field.name]
    assert values.shape == field.shape(32, 32) and values.dtype == field.dtype
    assert values.flags.c_contiguous
  assert set(examples[0]) == {'image', 'label', *(field.name for field in sprites.FIELDS)}


def test_masks_boxes_and_depth_say_the_same(examples):
  for found in examples:
    identity, category, boxes = found['object'], found['category'], found['boxes']
    assert boxes[0, 4] == found['label'], 'the nearest object is the label'
    for number, box in enumerate(boxes):
      own = identity[..., 0] == number + 1
      if box[4] < 0:
        assert not own.any() and not box[:4].any()
        continue
      rows, columns = np.nonzero(own)
      edges = np.array([rows.min(), columns.min(), rows.max() + 1, columns.max() + 1])
      np.testing.assert_array_equal(box[:4] * 32, edges)
      np.testing.assert_array_equal(np.unique(category[own]), [box[4] + 1])
      moves = sprites.CLASS_NAMES[int(box[4])] in sprites.MOVERS
      np.testing.assert_array_equal(np.unique(found['moving'][own]), [moves])
      assert np.ptp(found['depth'][own]) == 0 and found['depth'][own].max() <= sprites.FARTHEST
    assert not category[identity == 0].any() and not found['moving'][identity == 0].any()
    assert found['depth'][identity == 0].min() >= min(sprites.BEHIND) - 1e-6


def test_what_moves_is_what_the_frames_show(examples):
  """Where nothing moves and the camera rests, the frames differ by noise alone."""
  rest, seen, unseen = 0, [], []
  for found in examples:
    difference = np.abs(found['second'].astype(int) - found['image']).max(-1)
    noise = 6 * np.sqrt(2) * 0.02 * 255
    if not found['pan'].any():
      rest += 1
      moving = found['moving'][..., 0] > 0
      # What an object moves onto differs, too, and pixels that it covers in part.
      near = np.zeros_like(moving)
      for y, x in zip(*np.nonzero(moving), strict=True):
        near[max(y - 6, 0) : y + 7, max(x - 6, 0) : x + 7] = True
      assert (difference[~near] < noise).all()
      seen += [difference[moving].mean()] if moving.any() else []
    else:
      still = (found['moving'][..., 0] == 0) & (found['object'][..., 0] == 0)
      unseen.append(difference[still].mean())
  assert 30 < rest < 90, 'half of the scenes are seen by a camera at rest'
  assert np.mean(seen) > 15 and min(seen) > 5
  assert np.mean(unseen) > 2 * 0.02 * 255, 'differences say nothing there'


def test_objects_are_displaced_as_a_whole_and_background_by_the_pan():
  """The first frame, displaced, is the second, but for noise, light and what is covered."""
  for index in range(40):
    found = sprites.draw(0, 'train', index)
    pan = found['pan']
    if not pan.any() or (pan % 1).any() or found['object'].max() > 1 or found['moving'].any():
      continue
    moved = np.roll(found['image'].astype(int), pan.astype(int), (0, 1))[4:-4, 4:-4]
    assert np.abs(moved - found['second'][4:-4, 4:-4]).mean() < 12
    return
  pytest.fail('no scene of a single resting object whose camera turns by whole pixels')


def test_every_ten_neighbors_hold_every_class(examples):
  labels = np.array([found['label'] for found in examples]).reshape(-1, 10)
  np.testing.assert_array_equal(np.sort(labels, 1), np.tile(np.arange(10), (12, 1)))


def test_half_of_the_classes_move_and_the_published_scenes_do_not_change():
  """A change of the drawing needs a new VERSION, for cached files would not show it."""
  assert len(sprites.MOVERS) == 5 and set(sprites.MOVERS) < set(sprites.CLASS_NAMES)
  assert sprites.VERSION == '1.0.0'
  sheet = sprites.contact_sheet(6)
  assert sheet.shape == (206, 206, 3)
  np.testing.assert_array_equal(sheet[2:34, 36:68], sprites.draw(0, 'train', 1)['image'])
  np.testing.assert_allclose(sheet.astype(float).mean((0, 1)), [117.7, 102.659, 111.687], atol=0.05)


def test_arrays_are_cached_and_equal_to_draw(small, tmp_path):
  names = ('image', 'label', 'boxes', 'depth')
  kept = sprites.arrays('train', names, str(tmp_path))
  assert set(kept) == set(names) and kept['image'].shape == (20, 32, 32, 3)
  found = sprites.draw(sprites.SEED, 'train', 13)
  for name in names:
    np.testing.assert_array_equal(kept[name][13], found[name])
  (path,) = (tmp_path / 'sprites_arrays').iterdir()
  path.write_bytes(path.read_bytes()[:1000])  # A torn file is drawn again.
  again = sprites.arrays('train', ('second',), str(tmp_path))
  np.testing.assert_array_equal(again['second'][13], found['second'])


def test_as_a_source_with_the_fields_that_a_configuration_names(small, tmp_path):
  asked = fields.parsed(('second:image', 'moving:mask', 'boxes:boxes', 'pan:label'))
  source = datasets.load('sprites', 'test', data_dir=tmp_path, fields=asked)
  assert source.size == 10 and source.num_classes == 10 and not source.encoded
  names = [field.name for field in source.fields]
  assert names == ['image', 'second', 'moving', 'boxes', 'pan']
  found = sprites.draw(sprites.SEED, 'test', 3)
  for name, values in zip(names, source.read(np.array([3]), names), strict=True):
    np.testing.assert_array_equal(values[0], found[name])
  with pytest.raises(ValueError, match="no field 'deepth'.*did you mean 'depth'"):
    datasets.load('sprites', 'test', data_dir=tmp_path, fields=[Field('deepth', 'map')])
  with pytest.raises(ValueError, match='depth.*is a map of 1 channels'):
    datasets.load('sprites', 'test', data_dir=tmp_path, fields=[Field('depth', 'mask')])


def test_fields_of_a_configuration():
  found = fields.parsed(('depth:map', 'boxes:boxes:20'))
  assert found == (Field('depth', 'map'), Field('boxes', 'boxes', 20))
  for wrong, message in (
    ('depth', 'name:kind'), ('depth:map:x', 'name:kind'), ('depth:mapp', 'kind is one of'),
  ):  # fmt: skip
    with pytest.raises(ValueError, match=message):
      fields.parsed((wrong,))
  with pytest.raises(ValueError, match='twice'):
    fields.parsed(('a:map', 'a:mask'))


def test_unknown_split_and_negative_index():
  with pytest.raises(ValueError, match="sprites has no split 'tset': use 'train' or 'test'"):
    sprites.draw(0, 'tset', 0)
  with pytest.raises(ValueError, match='negative'):
    sprites.draw(0, 'train', -1)


def test_drawing_needs_no_tensorflow():
  code = (
    'import sys; from byoljax.data.sources import sprites; sprites.draw(0, "train", 0);'
    'print([m for m in ("tensorflow", "tensorflow_datasets", "jax") if m in sys.modules])'
  )
  output = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
  assert output.stdout == '[]\n'
