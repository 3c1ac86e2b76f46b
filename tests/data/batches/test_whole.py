"""Whole images at their own sizes: nothing is lost, and nothing depends on the batch."""

import numpy as np
from PIL import Image
import pytest

from byoljax.data.batches import whole
from byoljax.data.fields import Field
from byoljax.data.sources import arrays, folder

SIZES = [(5, 9), (8, 8), (3, 12), (7, 16), (8, 5), (6, 9), (1, 1)]


@pytest.fixture
def scenes(tmp_path):
  """PNGs of uneven sizes with palette masks; each mask says its pixel's red."""
  for name in ('images', 'masks'):
    (tmp_path / name).mkdir()
  rng = np.random.default_rng(0)
  for number, size in enumerate(SIZES):
    image = rng.integers(0, 256, (*size, 3), np.uint8)
    Image.fromarray(image).save(tmp_path / 'images' / f'{number}.png')
    mask = Image.fromarray(image[..., 0])
    mask = mask.convert('P')
    mask.putdata(image[..., 0].ravel().tolist())
    mask.putpalette(rng.integers(0, 256, 768, np.uint8).tolist())
    mask.save(tmp_path / 'masks' / f'{number}.png')
  return folder.from_folder(tmp_path, 'train', fields=(Field('masks', 'mask'),))


def collected(source, batch_size, **how):
  """What each image gives, by its number."""
  found = {}
  groups = whole.groups(source, multiple=4)
  for batch in whole.whole_batches(source, groups, batch_size=batch_size, **how):
    for row in np.flatnonzero(batch['valid']):
      (height, width), index = batch['size'][row], int(batch['index'][row])
      assert index not in found
      inside = batch['inside'][row]
      assert inside[:height, :width].all() and inside.sum() == height * width
      for name in ('image', 'masks'):
        assert not batch[name][row][~inside].any()
      found[index] = batch['image'][row], batch['masks'][row], (height, width)
  return found


def test_every_image_comes_once_at_its_own_size_whatever_the_batch(scenes):
  one, three = (collected(scenes, size, fields=('masks',)) for size in (1, 3))
  assert set(one) == set(three) == set(range(len(SIZES)))
  for index, (image, mask, size) in one.items():
    assert size == SIZES[index]
    # Filled up to the next multiple of 4.
    assert image.shape[:2] == tuple(-(-side // 4) * 4 for side in size)
    np.testing.assert_array_equal(mask[..., 0], image[..., 0])
    for a, b in zip(one[index], three[index], strict=True):
      np.testing.assert_array_equal(a, b)
  parts = [
    collected(scenes, 4, fields=('masks',), process_index=part, process_count=2) for part in (0, 1)
  ]
  assert sorted([*parts[0], *parts[1]]) == list(range(len(SIZES)))


def test_a_least_side_and_what_cannot_be_read(scenes, tmp_path):
  (tmp_path / 'images' / '3.png').write_bytes(b'broken')
  (tmp_path / 'masks' / '1.png').write_bytes(b'broken')
  groups = whole.groups(scenes, multiple=4, least=10)
  assert min(min(group.height, group.width) for group in groups) == 12
  assert sum(len(group.index) for group in groups) == len(SIZES) - 1
  assert set(collected(scenes, 2, fields=('masks',))) == {0, 2, 4, 5, 6}
  assert len(scenes.unreadable) == 2


def test_arrays_need_no_decoding_and_mistakes_are_told():
  images = np.arange(2 * 6 * 5 * 3, dtype=np.uint8).reshape(2, 6, 5, 3)
  fields = {Field('depth', 'map'): np.ones((2, 6, 5), np.float32),
            Field('pan', 'label', 2): np.ones((2, 2), np.float32)}  # fmt: skip
  source = arrays.from_arrays(images, fields=fields)
  (group,) = whole.groups(source, multiple=8)
  assert (group.height, group.width) == (8, 8)
  (batch,) = whole.whole_batches(source, [group], batch_size=4, fields=('depth',))
  np.testing.assert_array_equal(batch['image'][:2, :6, :5], images)
  assert batch['depth'].sum() == 2 * 30 and list(batch['valid']) == [True, True, False, False]
  with pytest.raises(ValueError, match="'pan' of arrays has no value at every pixel"):
    whole.whole_batches(source, [group], batch_size=4, fields=('pan',))
  with pytest.raises(ValueError, match='multiple is 0'):
    whole.groups(source, multiple=0)
