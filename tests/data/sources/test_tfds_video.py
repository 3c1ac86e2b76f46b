"""TFDS sets of clips: which frames are pairs, from sequences wherever a set keeps them."""

import numpy as np
import pytest

from byoljax import config as config_lib
from byoljax.data.fields import Field
from byoljax.data.sources import (
  datasets,
  image_file,
  memory,
  records,
  tensorflow_import,
  tfds_source,
)
from byoljax.tasks import data

pytestmark = pytest.mark.usefixtures('own_cache')
LENGTHS = (3, 1, 3)
SECOND = Field('second', 'image')


def gray(clip, frame):
  return 50 * clip + 10 * frame


@pytest.fixture(scope='module')
def root(tmp_path_factory):
  """Three clips, each a video, a sequence of dicts and a robot's episode; written by TFDS."""
  tfds = tensorflow_import.tensorflow_datasets()
  kinds = tfds.features
  image = kinds.Image(shape=(8, 9, 3), encoding_format='png')
  mask = kinds.Image(shape=(8, 9, 1), encoding_format='png')
  features = {
    'still': image,
    'video': kinds.Video(shape=(None, None, None, 3)),
    'cut': kinds.Sequence({'frames': image, 'moving': mask}),
    'steps': kinds.Dataset({'observation': {'image': image, 'place': np.float32}}),
    'label': kinds.ClassLabel(names=['run', 'walk']),
  }

  def examples():
    for clip, length in enumerate(LENGTHS):
      shown = [np.full((8, 9, 3), gray(clip, frame), np.uint8) for frame in range(length)]
      yield (
        clip,
        {
          'still': shown[0],
          'video': np.stack(shown),
          'cut': [{'frames': one, 'moving': one[..., :1] // 10} for one in shown],
          'steps': [{'observation': {'image': one, 'place': 0.5}} for one in shown],
          'label': clip % 2,
        },
      )

  root = tmp_path_factory.mktemp('clips')
  tfds.dataset_builders.store_as_tfds_dataset(
    name='clips',
    version='1.0.0',
    features=kinds.FeaturesDict(features),
    split_datasets={'train': examples()},
    data_dir=str(root),
    disable_shuffling=True,
  )
  return root


def pairs(found, rows=None):
  """(first, second) gray values of examples."""
  rows = np.arange(found.size) if rows is None else np.array(rows)
  values = [
    [int(image_file.decode(file)[0, 0, 0]) for file in column]
    for column in found.read(rows, ('image', 'second'))
  ]
  return list(zip(*values, strict=True))


def pairs_of_arrays(found):
  """As `pairs`, of decoded examples."""
  images, second = found.read(np.arange(found.size), ('image', 'second'))
  return list(zip(images[:, 0, 0, 0], second[:, 0, 0, 0], strict=True))


@pytest.mark.parametrize('key', ['video', 'cut/frames', 'steps/observation/image'])
def test_frames_of_every_kind_of_clip_are_pairs(root, key):
  found = datasets.load(f'tfds:clips#{key}', 'train', data_dir=root, fields=[SECOND])
  due = [(0, 10), (10, 20), (100, 110), (110, 120)]
  assert pairs(found) == due
  assert pairs(found, [2, 0, 2]) == [due[2], due[0], due[2]]
  assert [field.name for field in found.fields] == ['image', 'second']
  assert found.image_shape == (None if key == 'video' else (8, 9))
  np.testing.assert_array_equal(found.labels, [0, 0, 0, 0])
  assert found.class_names == ('run', 'walk')
  assert found.locate(1).endswith(f'#{key}:train[0], frame 1')
  further = datasets.load(f'tfds:clips#{key}', 'train', data_dir=root, frame_gap=2)
  assert pairs(further) == [(0, 20), (100, 120)] and further.fingerprint != found.fingerprint
  # In memory, and a second time, from the cache.
  again = datasets.load(f'tfds:clips#{key}', 'pretrain', data_dir=root, in_memory=True).opened()
  assert again.fingerprint == found.fingerprint
  if key != 'video':
    assert pairs_of_arrays(again) == due


def test_other_sequences_beside_the_frames_are_fields(root):
  fields = [Field('moving', 'mask'), SECOND]
  found = datasets.load('tfds:clips#cut/frames', 'pretrain', data_dir=root, fields=fields)
  assert found.field('moving').channels == 1 and found.field('moving').dtype == 'uint8'
  (masks,) = memory.keep(found).opened().read(np.arange(4), ('moving',))
  assert masks[:, 0, 0, 0].tolist() == [0, 1, 10, 11]
  with pytest.raises(ValueError, match="no feature 'moved': it has frames, moving"):
    datasets.load(
      'tfds:clips#cut/frames', 'pretrain', data_dir=root, fields=[Field('moved', 'mask')]
    )


def test_what_cannot_be_read_is_an_empty_image(root, tmp_path, monkeypatch):
  found = datasets.load('tfds:clips#video', 'train', data_dir=root)
  whole = records.tfrecord_reader

  def damaged(paths):
    counts, read = whole(paths)
    return counts, lambda shard, row: b'\xff' * 20 if row == 0 else read(shard, row)

  with monkeypatch.context() as patch:
    patch.setattr(records, 'tfrecord_reader', damaged)
    spoilt = datasets.load('tfds:clips#video', 'train', data_dir=root)
    images, second, labels = spoilt.read(np.arange(4), ('image', 'second', 'label'))
    assert [bool(one) for one in images] == [bool(one) for one in second] == [0, 0, 1, 1]
    assert spoilt.fingerprint == found.fingerprint and labels.tolist() == [0, 0, 0, 0]
    # Damaged when it is first looked at, it has no frames; that is not kept for later.
    monkeypatch.setenv('BYOLJAX_DATA', str(tmp_path))
    few = datasets.load('tfds:clips#video', 'train', data_dir=root)
    assert pairs(few) == [(100, 110), (110, 120)]
  again = datasets.load('tfds:clips#video', 'train', data_dir=root)
  assert again.size == 4 and again.fingerprint == found.fingerprint


def test_what_is_no_clip_is_refused(root):
  for name, options, message in (
    ('clips#still', {'fields': [SECOND]}, "no feature 'second'"),
    ('clips', {}, r"no image feature 'image'.*read as tfds:clips/1.0.0#cut/frames, .*#video"),
    ('clips#vidoe', {}, r"no image feature 'vidoe': its images are 'still'"),
    ('clips#video', {'frame_gap': 3}, r'has no clip of 4 frames'),
    ('clips#video', {'frame_gap': 0}, r'frame_gap=0 must be at least 1'),
    ('clips#video', {'fields': [Field('second', 'mask')]}, 'is an image, not a mask'),
  ):
    with pytest.raises(ValueError, match=message):
      datasets.load(f'tfds:{name}', 'train', data_dir=root, **options)
  assert tfds_source.from_tfds('clips', 'train', data_dir=root, image_key='still').size == 3


def test_a_recipe_reads_a_set_of_clips(root):
  recipe = 'configs/motion_segmentation.py:smoke,differencing'
  config = config_lib.load(
    recipe,
    [('data.name', 'tfds:clips#cut/frames'), ('data.dir', str(root)), ('data.frame_gap', '2')],
  )
  found = data.open_split(config, 'pretrain', None).opened()
  assert pairs_of_arrays(found) == [(0, 20), (100, 120)]
