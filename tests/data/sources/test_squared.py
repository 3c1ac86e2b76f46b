"""Images filled up to squares: arrays and files give the same, and boxes stay where they are."""

import numpy as np
from PIL import Image
import pytest

from byoljax.data.augment.views import ViewSpec
from byoljax.data.batches import order, pipeline
from byoljax.data.fields import Field
from byoljax.data.sources import arrays, folder, pixels
from byoljax.data.sources.squared import restored, squared

BOXES = Field('boxes', 'boxes', 2, dtype='float32')
ROWS = np.array([[0.25, 0.5, 0.75, 1, 0], [0, 0, 0, 0, -1]], np.float32)


def images(height, width, count=4):
  return np.random.default_rng(0).integers(50, 256, (count, height, width, 3), np.uint8)


def of_arrays(height, width):
  x = images(height, width)
  return arrays.from_arrays(x, None, fields={BOXES: np.stack([ROWS] * len(x))})


@pytest.mark.parametrize(('height', 'width'), [(8, 12), (12, 8)])
def test_arrays(height, width):
  source = squared(of_arrays(height, width))
  assert source.image_shape == (12, 12) and squared(source) is source
  image, boxes = source.read(np.arange(2), ('image', 'boxes'))
  np.testing.assert_array_equal(image[:, :height, :width], images(height, width)[:2])
  assert image[:, height:].sum() == image[:, :, width:].sum() == 0
  # In pixels the corners are the same.
  corners = boxes[0, 0, :4] * 12
  np.testing.assert_allclose(corners, ROWS[0, :4] * [height, width, height, width])
  assert boxes[0, 1].tolist() == ROWS[1].tolist()
  np.testing.assert_allclose(restored(boxes, (height, width))[0], ROWS, atol=1e-6)
  assert source.fingerprint != of_arrays(height, width).fingerprint


def test_files_of_uneven_sizes_are_as_arrays(tmp_path):
  """Whole and in crops of training; with 16 bits, too."""
  pytest.importorskip('tensorflow')
  sizes = [(8, 12), (12, 8), (10, 10)]
  for name in ('images', 'boxes'):
    (tmp_path / name).mkdir()
  for number, size in enumerate(sizes):
    Image.fromarray(images(*size, 1)[0]).save(tmp_path / 'images' / f'{number}.png')
    np.save(tmp_path / 'boxes' / f'{number}.npy', ROWS[:1])
  for range_ in ('0,255', ''):
    source = squared(folder.from_folder(tmp_path, 'train', fields=(BOXES,), range_=range_))
    (batch,) = pipeline.eval_batches(
      source, image_size=12, batch_size=4, fields=('boxes',), whole=True
    )
    for row, (height, width) in enumerate(sizes[:2]):
      seen = np.asarray(batch['image'][row], np.float64) * (255 if range_ else 1)
      np.testing.assert_allclose(seen[:height, :width], images(height, width, 1)[0], atol=0.5)
      assert seen[height:].sum() == seen[:, width:].sum() == 0
      due = ROWS[0, :4] * [height, width, height, width]
      np.testing.assert_allclose(batch['boxes'][row, 0, :4] * 12, due, atol=1e-5)
  spec = ViewSpec(size=8, crop_scale=(1.0, 1.0), crop_ratio=(1.0, 1.0), flip_prob=1.0)
  which = order.Order(3, batch_size=3, seed=0)
  (views,) = pipeline.train_batches(
    source, (spec,), order=which, seed=0, start_step=0, stop_step=1, fields=('boxes',)
  )
  (view,), (boxes,) = views['views'], views['boxes']
  row = list(views['index']).index(0)
  # Mirrored: below there is nothing of an image that is wider than high.
  assert view[row][7].sum() == 0 and view[row][:4].min() > 0
  np.testing.assert_allclose(boxes[row, 0, :4] * 12, [2, 0, 6, 6], atol=1e-5)


def test_other_fields_of_files_are_refused(tmp_path):
  for name in ('images', 'masks'):
    (tmp_path / name).mkdir()
    Image.fromarray(images(8, 12)[0][..., 0]).save(tmp_path / name / '0.png')
  source = folder.from_folder(tmp_path, 'train', fields=(Field('masks', 'mask'),))
  with pytest.raises(ValueError, match="filled up to squares without 'masks'"):
    squared(source)
  x = np.ones((1, 2, 3, 1), np.float32)
  assert pixels.filled_up(x).shape == (1, 3, 3, 1)
