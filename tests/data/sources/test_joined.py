"""Several sources as one, and what a mixed order takes of them."""

import dataclasses

import numpy as np
import pytest

from byoljax.data.augment import views
from byoljax.data.batches import pipeline
from byoljax.data.batches.order import MixedOrder
from byoljax.data.fields import Field
from byoljax.data.sources import arrays, folder
from byoljax.data.sources.joined import join
from tests.data.batches.test_fields import file_of


def images_of(count, seed):
  return np.random.default_rng(seed).integers(0, 256, (count, 10, 12, 3), np.uint8)


def labelled(count=3, seed=0, **options):
  return arrays.from_arrays(images_of(count, seed), np.arange(count) % 2, name='few', **options)


def test_examples_follow_one_another():
  few, many = labelled(), arrays.from_arrays(images_of(20, 1), name='many')
  both = join([few, many])
  assert (both.name, both.size, both.num_classes, both.starts) == ('few+many', 23, 2, (0, 3))
  images, labels = both.read(np.array([22, 1, 3, 1]))
  np.testing.assert_array_equal(images, [*many.read([19, 0])[0][:1], *few.read([1])[0],
                                         *many.read([0])[0], *few.read([1])[0]])  # fmt: skip
  assert labels.tolist() == [-1, 1, -1, 1]
  assert both.labels.tolist() == [0, 1, 0] + [-1] * 20
  assert [both.locate(row) for row in (2, 3)] == ['few[2]', 'many[0]']
  assert both.fingerprint != join([many, few]).fingerprint
  part = both.subset(np.array([4, 0]))
  assert part.read(np.arange(2))[1].tolist() == [-1, 0] and part.starts == (0,)


def test_batches_of_a_mixed_order():
  both = join([labelled(), arrays.from_arrays(images_of(20, 1), name='many')])
  order = MixedOrder((3, 20), (2, 6), seed=0)
  for batch in pipeline.train_batches(
    both, [views.ViewSpec(size=8)], order=order, seed=0, start_step=0, stop_step=4
  ):
    known = batch['label'].reshape(2, 4) >= 0
    np.testing.assert_array_equal(known, [[True, False, False, False]] * 2)
    assert batch['epoch'].dtype == np.int32


def test_what_cannot_be_read_is_replaced_by_its_own_part(tmp_path):
  for name, count in (('one', 3), ('two', 4)):
    for row, image in enumerate(images_of(count, 0)):
      data, suffix = file_of(image)
      (tmp_path / name).mkdir(exist_ok=True)
      (tmp_path / name / f'{row}{suffix}').write_bytes(data if row != 2 else b'no picture')
  both = join([folder.from_folder(tmp_path / name, 'train') for name in ('one', 'two')])
  order = MixedOrder((3, 4), (3, 4), seed=0)
  (batch,) = pipeline.train_batches(
    both, [views.ViewSpec(size=8)], order=order, seed=0, start_step=0, stop_step=1
  )
  assert sorted(batch['index']) == [0, 0, 1, 3, 4, 6, 6]
  assert len(both.unreadable) == 2


@pytest.mark.parametrize(
  ('other', 'message'),
  [
    (labelled(4, channels=3, fields={Field('d', 'map'): np.zeros((4, 10, 12))}), 'fields'),
    (dataclasses.replace(labelled(), image_shape=(9, 9)), r'image_shape, \(10, 12\) and \(9, 9\)'),
    (dataclasses.replace(labelled(), encoded=True), 'encoded'),
    (arrays.from_arrays(images_of(3, 0), np.arange(3)), 'their classes differ'),
  ],
)
def test_sources_that_differ_are_not_joined(other, message):
  with pytest.raises(ValueError, match=message):
    join([labelled(), other])
