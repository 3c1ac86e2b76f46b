"""Data sets that are objects: every kind gives the same images, or one sentence."""

import io
import re
import types

import numpy as np
from PIL import Image
import pytest

from byoljax.data.fields import Field
from byoljax.data.sources import arrays, datasets, given, objects, pixels
from byoljax.data.sources.source import NoSplitError

IMAGES = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), dtype=np.uint8)
LABELS = np.array([0, 1, 2, 0, 1, 2])


class Sequence:
  """What a torch-style data set is to us."""

  def __init__(self, examples, **about):
    self.examples = examples
    vars(self).update(about)

  def __len__(self):
    return len(self.examples)

  def __getitem__(self, row):
    return self.examples[row]


class Tensor:
  """What a tensor of PyTorch's is to us."""

  def __init__(self, array):
    self.array, self.shape, self.ndim = array, array.shape, array.ndim

  def __array__(self, dtype=None, copy=None):
    return self.array

  def detach(self):
    return self

  cpu = detach

  def numpy(self):
    return self.array


Tensor.__module__ = 'torch'


def png(image):
  written = io.BytesIO()
  Image.fromarray(image).save(written, 'PNG')
  return written.getvalue()


def tensors():
  floats = (IMAGES.transpose(0, 3, 1, 2) / 255).astype(np.float32)
  return [(Tensor(image), int(label)) for image, label in zip(floats, LABELS, strict=True)]


def pillows():
  return [(Image.fromarray(image), int(y)) for image, y in zip(IMAGES, LABELS, strict=True)]


KINDS = {
  'array': lambda: (IMAGES, LABELS),
  'floats': lambda: (IMAGES / 255, LABELS),
  'wide integers': lambda: (IMAGES.astype(np.int64), LABELS),
  'mapping': lambda: {'image': IMAGES, 'label': LABELS},
  'pairs': lambda: list(zip(IMAGES, LABELS, strict=True)),
  'torch-style': lambda: Sequence(tensors()),
  'torch tensor': lambda: (Tensor(IMAGES.transpose(0, 3, 1, 2)), LABELS),
  'pillow': lambda: Sequence(pillows()),
  'rows': lambda: Sequence([{'img': i, 'label': y} for i, y in pillows()]),
}


@pytest.mark.parametrize('kind', KINDS)
def test_every_kind_is_the_same_set(kind):
  source = objects.as_source(KINDS[kind]())
  assert (source.size, source.num_classes, source.image_shape) == (6, 3, (8, 8))
  images, labels = source.read(np.array([4, 0]))
  np.testing.assert_array_equal(images, IMAGES[[4, 0]])
  np.testing.assert_array_equal(labels, [1, 0])
  np.testing.assert_array_equal(source.labels, LABELS)


class Iterated:
  """What a `tf.data.Dataset` is to us."""

  def __init__(self, examples, count=6):
    self.examples, self.count = examples, count

  def cardinality(self):
    return np.int64(self.count)

  def as_numpy_iterator(self):
    return iter(self.examples)


def test_what_is_iterated_with_or_without_batches():
  pairs = list(zip(IMAGES, LABELS, strict=True))
  rows = [{'image': image, 'label': label} for image, label in pairs]
  batches = [(IMAGES[:4], LABELS[:4]), (IMAGES[4:], LABELS[4:])]
  for examples in (pairs, rows, batches, [{'label': y, 'image': x} for x, y in batches]):
    source = objects.as_source(Iterated(examples, -2))
    np.testing.assert_array_equal(source.read(np.arange(6))[0], IMAGES)
    np.testing.assert_array_equal(source.labels, LABELS)
  assert objects.as_source(Iterated(list(IMAGES))).num_classes == 0
  with pytest.raises(ValueError, match='never ends'):
    objects.as_source(Iterated(pairs, -1))


@pytest.mark.slow
def test_a_tf_data_set_with_or_without_batches():
  tf = pytest.importorskip('tensorflow')
  rows = tf.data.Dataset.from_tensor_slices({'image': IMAGES, 'label': LABELS})
  plain = tf.data.Dataset.from_tensor_slices((IMAGES, LABELS))
  for data in (rows, rows.batch(4), plain, plain.batch(4)):
    source = objects.as_source(data)
    np.testing.assert_array_equal(source.read(np.arange(6))[0], IMAGES)
    np.testing.assert_array_equal(source.labels, LABELS)
  with pytest.raises(ValueError, match='never ends'):
    objects.as_source(rows.repeat())


def test_images_of_several_sizes_are_files(tmp_path):
  images = [IMAGES[0], IMAGES[1, :5], IMAGES[2]]
  paths = [tmp_path / f'{number}.png' for number in range(3)]
  for path, image in zip(paths, images, strict=True):
    path.write_bytes(png(image))
  rows = [{'bytes': None, 'path': str(path)} for path in paths]
  for data in (images, [png(image) for image in images], paths, rows):
    source = objects.as_source(data, [1, 0, 1])
    assert source.encoded and source.image_shape is None and source.num_classes == 2
    read = source.read(np.array([1]), ('image', 'label'))
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(read[0][0]))), images[1])
    assert read[1] == [0]


def test_images_of_one_type_decide_together_what_their_numbers_mean(monkeypatch):
  """As they do in one array: white among floats, dark among 16 bits."""
  floats = np.random.default_rng(0).random((3, 8, 8, 3), np.float32)
  floats[1] = 1
  deep = np.stack([np.full((8, 8, 3), value, np.uint16) for value in (3000, 200, 65535)])
  for images in (floats, deep):
    array, found = objects.as_source(images), objects.as_source(list(images))
    assert found.field('image') == array.field('image') and found.field('image').dtype == 'float32'
    np.testing.assert_array_equal(found.read(np.arange(3))[0], array.read(np.arange(3))[0])
  monkeypatch.setattr(objects.memory, 'room', lambda: 100)
  lazy = objects.as_source(list(deep[::-1]))
  (files,) = lazy.read(np.array([1]), ('image',))
  # One rounding to float32, relative.
  expected = pytest.approx(200 / 65535, rel=2**-24)
  assert pixels.decode(files[0], lazy.field('image'))[0, 0, 0] == expected


def test_images_of_several_types_are_files_of_one_range():
  floats = np.random.default_rng(0).random((8, 8, 3), np.float32)
  found = objects.as_source([IMAGES[0], floats, IMAGES[2] / 255])
  (files,) = found.read(np.arange(3), ('image',))
  for file, expected in zip(files, (IMAGES[0] / 255, floats, IMAGES[2] / 255), strict=True):
    image = pixels.decode(file, found.field('image'))
    np.testing.assert_allclose(image, expected, rtol=0, atol=2**-24)  # one rounding to float32


def test_what_does_not_fit_is_read_when_it_is_needed(monkeypatch):
  monkeypatch.setattr(objects.memory, 'room', lambda: 100)
  asked = []

  class Large(Sequence):
    def __getitem__(self, row):
      asked.append(row)
      return super().__getitem__(row)

  source = objects.as_source(Large(tensors(), targets=LABELS.tolist(), classes=list('abc')))
  assert len(asked) <= 1 + 2 * 16 and source.class_names == ('a', 'b', 'c')
  asked.clear()
  (file,) = source.read(np.array([3]), ('image',))
  assert asked == [3]
  np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(file[0]))), IMAGES[3])
  with pytest.raises(ValueError, match='does not fit into a quarter of the memory'):
    objects.as_source(Iterated(list(IMAGES)))


def test_labels_of_examples_come_before_those_of_the_data_set(monkeypatch):
  """As with torchvision's `target_transform`; class names would be those of other labels."""
  coarse = [(image, label >= 2) for image, label in zip(IMAGES, LABELS, strict=True)]
  data = Sequence(coarse, targets=LABELS.tolist(), classes=['a', 'b', 'c'])
  found = objects.as_source(data)
  np.testing.assert_array_equal(found.labels, LABELS >= 2)
  assert found.class_names == ('0', '1')
  partly = Sequence([(IMAGES[0], None), *zip(IMAGES[1:], LABELS[1:], strict=True)], targets=[2] * 6)
  np.testing.assert_array_equal(objects.as_source(partly).labels, [2, *LABELS[1:]])
  np.testing.assert_array_equal(objects.as_source(data, LABELS).labels, LABELS)
  monkeypatch.setattr(objects.memory, 'room', lambda: 100)
  assert objects.as_source(data, LABELS).num_classes == 3
  with pytest.raises(
    ValueError, match='example 1 has the label 0, but 1 in the labels of the whole'
  ):
    objects.as_source(data)


@pytest.mark.parametrize(
  ('label', 'said'),
  [
    ('cat', "'cat'"),
    (np.float32(3), 'np.float32(3.0)'),
    ([1, 2], '[1, 2]'),
    ({'boxes': [[1, 2], [3]]}, "{'boxes'"),
    (np.eye(3)[1], 'array([0., 1., 0.])'),
  ],
)
def test_labels_of_examples_that_are_no_class_numbers_are_refused(label, said):
  for data in ([(IMAGES[0], label)], [{'image': IMAGES[0], 'label': label}]):
    with pytest.raises(ValueError, match='an example has the label ' + re.escape(said)) as caught:
      objects.as_source(data)
    assert 'whole numbers' in str(caught.value) and '\n' not in str(caught.value)
    assert objects.as_source(data, [-1]).num_classes == 0
  assert list(objects.as_source([(IMAGES[0], np.array([2]))]).labels) == [2]
  assert list(objects.as_source([{'x': IMAGES[0], 'label': label, 'y': 1}]).labels) == [1]


def test_batches_have_a_label_for_each_image():
  for labels, said in ((LABELS / 2, 'np.float64'), (LABELS[:2], r'labels of shape \[2\]')):
    with pytest.raises(ValueError, match=said):
      objects.as_source(Iterated([(IMAGES, labels)]))


def test_names_of_classes_come_along():
  source = objects.as_source(Sequence(pillows(), classes=['a', 'b', 'c', 'd']))
  assert source.class_names == ('a', 'b', 'c', 'd') and source.num_classes == 4
  feature = types.SimpleNamespace(names=['x', 'y', 'z'])
  rows = [{'image': i, 'label': y} for i, y in pillows()]
  assert objects.as_source(Sequence(rows, features={'label': feature})).class_names[2] == 'z'


@pytest.mark.parametrize(
  ('data', 'sentence'),
  [
    (5, 'data of type int cannot be read: give a path'),
    (IMAGES.transpose(0, 3, 1, 2), r'transpose with \(0, 2, 3, 1\)'),
    ([np.zeros((3, 20, 20), np.uint8)], r'transpose it with \(1, 2, 0\)'),
    (IMAGES.astype(np.uint16), 'type uint16 and numbers from'),
    (IMAGES / 127.5 - 1, 'numbers from -1 to .* before any normalization'),
    ([], 'no example'),
    ({'pictures': IMAGES}, 'the data have pictures, but images are looked for as image'),
    ([{'picture': 1}], 'an example has picture'),
    (['no'], None),
    ([object()], 'an image is object'),
  ],
)
def test_others_are_named(data, sentence):
  if sentence is None:  # Files are opened when they are needed.
    assert objects.as_source(data).size == 1
    return
  with pytest.raises(ValueError, match=sentence) as caught:
    objects.as_source(data)
  assert '\n' not in str(caught.value)


def test_what_is_given_has_a_name_for_as_long_as_it_is_kept():
  kept = given.give({'train': (IMAGES, LABELS), 'test': (IMAGES[:3], LABELS[:3])})
  assert kept.name == given.give(IMAGES, LABELS, test=(IMAGES[:3], LABELS[:3])).name
  parts = {'train': IMAGES, 'test': (IMAGES[:3], LABELS[:3])}
  assert kept.name == given.give(parts, LABELS).name, 'labels are those of the training images'
  assert datasets.load(kept.name, 'pretrain').size == datasets.load(kept.name, 'train').size == 6
  assert datasets.load(kept.name, 'test').size == 3
  alone = given.give(IMAGES)
  assert alone.name != kept.name and datasets.facts(alone.name).kind == 'given'
  with pytest.raises(NoSplitError, match='no test split'):
    datasets.load(alone.name, 'test')
  name = kept.name
  del kept
  with pytest.raises(ValueError, match='by a program and are not on the disk'):
    datasets.load(name, 'train')


def test_given_images_are_told_apart_by_all_of_their_pixels():
  images = np.random.default_rng(0).integers(0, 256, (100, 4, 4, 3), np.uint8)
  kept = given.give(images)
  for change in (1, slice(50, 53), 99):
    others = images.copy()
    others[change] += 1
    named = given.give(others)
    assert named.name != kept.name
    (read,) = datasets.load(named.name, 'train').read(np.arange(100), ('image',))
    np.testing.assert_array_equal(read, others)
  ragged = [*images, images[0, :3]]
  marks = {objects.as_source(each).fingerprint for each in (ragged, [*others, ragged[-1]])}
  assert len(marks) == 2


def test_the_names_of_splits_in_a_mapping():
  for name in ('val', 'valid', 'validation', 'test'):
    kept = given.give({'train': IMAGES, name: IMAGES[:2]})
    assert datasets.load(kept.name, 'test').size == 2
  several = given.give({'test': IMAGES[:2], 'train': IMAGES, 'validation': IMAGES[:3]})
  assert datasets.load(several.name, 'test').size == 2
  with pytest.raises(ValueError, match="unknown split 'vall': .*did you mean 'val'"):
    given.give({'train': IMAGES, 'vall': IMAGES})


def test_a_source_brings_its_labels_and_range():
  made = arrays.from_arrays(IMAGES, range_='0,300')
  assert objects.as_source(made, range_='0,300') is objects.as_source(made) is made
  with pytest.raises(ValueError, match='arrays is a source, which has its own labels'):
    objects.as_source(made, LABELS)
  with pytest.raises(ValueError, match="made with range_='0,300', but .* by data.range='0,9'"):
    objects.as_source(made, range_='0,9')


def test_a_source_that_is_given_has_fields():
  depth = IMAGES.mean(-1)
  own = Field('depth', 'map', resample='nearest')
  scenes = arrays.from_arrays(IMAGES, LABELS, fields={own: depth})
  kept = given.give(scenes)
  found = datasets.load(kept.name, 'pretrain', fields=[Field('depth', 'map')])
  assert found.field('depth').resample == 'nearest' and found.field('depth').channels == 1
  np.testing.assert_allclose(found.read(np.arange(6), ('depth',))[0][..., 0], depth, rtol=1e-6)
  for field, sentence in {
    Field('dept', 'map'): "no field 'dept': it has image, depth; did you mean 'depth'",
    Field('depth', 'mask'): "the field 'depth' of arrays is a map of 1",
  }.items():
    with pytest.raises(ValueError, match=sentence):
      datasets.load(kept.name, 'pretrain', fields=[field])


def splits(split):
  return {'train': (IMAGES, LABELS), 'pretrain': IMAGES}.get(split)


def test_a_function_is_a_data_set_by_its_import_path():
  name = f'{__name__}:splits'
  assert datasets.load(name, 'train').num_classes == 3
  assert datasets.load(name, 'pretrain').size == 6
  with pytest.raises(NoSplitError, match='has no test split'):
    datasets.load(name, 'test')
  with pytest.raises(ValueError, match="the data set 'nowhere:data' cannot be imported"):
    datasets.load('nowhere:data', 'train')


@pytest.mark.parametrize(
  ('labels', 'sentence'),
  [
    ([0.5, 1.7], 'must be whole numbers'),
    (['a', 'b'], 'must be whole numbers'),
    ([-3, 1], 'holds -3'),
    ([0, 10**9], 'at most 1,000,000'),
    ([0, 300_000], 'labels go up to 300,000'),
    ([0], '1 labels for 2 images'),
    ([[0, 1], [1, 0]], 'one label each'),
  ],
)
def test_labels_of_images_of_several_sizes_are_classes(labels, sentence):
  images = [np.zeros((8, 8 + number, 3), np.uint8) for number in range(2)]
  with pytest.raises(ValueError, match=sentence):
    objects.as_source(images, labels)
