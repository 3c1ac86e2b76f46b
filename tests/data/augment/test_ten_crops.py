"""Ten crops: where they lie, and that scores are averaged."""

import jax.numpy as jnp
import numpy as np
import pytest

from byoljax.data.augment import ten_crops


def test_corners_center_and_mirrors():
  images = np.arange(2 * 8 * 8 * 3, dtype=np.float32).reshape(2, 8, 8, 3)
  crops = np.asarray(ten_crops.ten_crops(jnp.asarray(images), 5))
  assert crops.shape == (10, 2, 5, 5, 3)
  for number, (y, x) in enumerate([(0, 0), (0, 3), (3, 0), (3, 3), (1, 1)]):
    np.testing.assert_array_equal(crops[number], images[:, y : y + 5, x : x + 5])
    np.testing.assert_array_equal(crops[number + 5], crops[number][:, :, ::-1])
  mean = ten_crops.averaged(lambda x: x.sum((1, 2)), jnp.asarray(images), 5)
  np.testing.assert_allclose(mean, crops.sum((2, 3)).mean(0), rtol=1e-6)
  assert ten_crops.larger(224) == 256
  with pytest.raises(ValueError, match='no crops of 9'):
    ten_crops.ten_crops(jnp.asarray(images), 9)
