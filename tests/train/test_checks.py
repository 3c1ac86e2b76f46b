"""Batches that do not fit the images, the devices and the micro-batches."""

import numpy as np
import optax
import pytest

from byoljax.data.augment.views import ViewSpec
from byoljax.data.sources import arrays
from byoljax.length import Length
from byoljax.train.checks import check_batch
from byoljax.train.run import DataOptions, make_run


@pytest.mark.parametrize(
  'images, batch_size, accumulate, devices, advice',
  [
    (10, 16, 4, 1, [8]),
    (10, 10, 4, 1, [8]),
    (10, 7, 4, 1, [4, 8]),
    (10, 3, 4, 1, [4, 8]),
    (80, 96, 1, 4, [80]),
  ],
)  # fmt: skip
def test_the_advice_fits(images, batch_size, accumulate, devices, advice):
  source = arrays.from_arrays(np.zeros((images, 2, 2, 3), np.uint8))
  said = f'use (at most )?{" or ".join(map(str, advice))}[.]$'
  with pytest.raises(ValueError, match=said):
    check_batch(batch_size, accumulate, devices, source)
  for size in advice:
    check_batch(size, accumulate, devices, source)


def test_there_is_no_advice_without_enough_images():
  source = arrays.from_arrays(np.zeros((5, 2, 2, 3), np.uint8))
  for batch_size in (4, 8, 16):
    with pytest.raises(ValueError, match='5 images, too few for 8 devices x 1 micro-batch:'):
      check_batch(batch_size, 1, 8, source)


def test_the_methods_builder_knows_the_views():
  source = arrays.from_arrays(np.zeros((8, 8, 8, 3), np.uint8))
  views, known = (ViewSpec(size=8, vflip_prob=0.5), ViewSpec(size=8)), []
  with pytest.raises(ValueError, match='the method is NoneType'):
    make_run(
      source, views, known.append, optax.sgd(0.1), Length(4, 2, 2), data=DataOptions((0.5,), (0.2,))
    )
  assert known[0].views == views
