"""Halving an image: kernels against jax.image.resize and by hand; quarters in their order."""

import jax
import numpy as np
import pytest

from byoljax.data.augment import quarters

RNG = np.random.default_rng(0)


@pytest.mark.parametrize('kernel', list(quarters.KERNELS))
def test_kernels(kernel):
  matrix = quarters.halving_matrix(kernel, 12)
  np.testing.assert_allclose(matrix.sum(1), 1.0, atol=1e-6)
  if kernel == 'area':
    np.testing.assert_array_equal(matrix, np.repeat(np.eye(6), 2, axis=1) / 2)
    return
  method = {'bilinear': 'linear', 'bicubic': 'cubic'}.get(kernel, kernel)
  with jax.default_matmul_precision('highest'):
    expected = jax.image.resize(np.eye(12, dtype=np.float32), (6, 12), method)
  # Five times float32's rounding of one weight, 6e-8.
  np.testing.assert_allclose(matrix, expected, atol=3e-7)


def test_each_image_has_its_own_kernel():
  images = RNG.uniform(size=(3, 8, 8, 2)).astype(np.float32)
  matrices = np.stack([quarters.halving_matrix(kernel, 8) for kernel in ('area', 'nearest')])
  found = quarters.halved(images, matrices, np.array([1, 0, 1]))
  np.testing.assert_allclose(found[0], images[0, 1::2, 1::2], atol=1e-6)
  blocks = images[1].reshape(4, 2, 4, 2, 2).mean((1, 3))
  np.testing.assert_allclose(found[1], blocks, atol=1e-6)


def test_quarters_are_row_by_row():
  image = np.arange(16.0).reshape(1, 4, 4, 1)
  corners = np.asarray(quarters.quarters(image))[:, 0, 0, 0, 0]
  assert corners.tolist() == [0, 2, 8, 10]


def test_what_cannot_be_halved():
  for kernel, size, said in (('area', 7, '7 is odd'), ('sinc', 8, 'not one of nearest, area')):
    with pytest.raises(ValueError, match=said):
      quarters.halving_matrix(kernel, size)
