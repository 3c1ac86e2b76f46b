"""What a network says of transforms, computed over batches; both scores of normality."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from byoljax.data.sources import arrays
from byoljax.encoders.encoder import Encoder, Preprocessing
from byoljax.method import Transforms
from byoljax.models.net import stack
from byoljax.protocols import extraction, told_transforms

UPSIDE_DOWN = Transforms(2, lambda images, way: jnp.where(way == 0, images, images[:, ::-1]))


class TopAgainstBottom(nn.Module):
  """Logits for 'upright' and 'upside down': upright pictures are brighter at the top."""

  @nn.compact
  def __call__(self, x, *, train):
    half = x.shape[1] // 2
    difference = x[:, :half].mean((1, 2, 3)) - x[:, half:].mean((1, 2, 3))
    return jnp.stack([difference, -difference], axis=-1)


def data():
  """Class 0 is bright at the top, class 1 at the bottom, class 2 hardly either."""
  rng, labels = np.random.default_rng(0), np.repeat(np.arange(3), 8).astype(np.int32)
  images = rng.integers(90, 110, (24, 8, 8, 3))
  images[:8, :4] += 60
  images[8:16, 4:] += 60
  source = arrays.from_arrays(
    images.astype(np.uint8), labels, name='halves', class_names=None, num_classes=3
  )
  return extraction.EvalData(source, source, 8, (0.5,) * 3, (0.25,) * 3, batch_size=8)


def encoder():
  net = stack((('encoder', 'logits', TopAgainstBottom()),))
  return Encoder(net, {'encoder': {}}, {'encoder': {}}, Preprocessing((0.5,) * 3, (0.25,) * 3, 8),
                 tap='logits')  # fmt: skip


def test_each_transform_of_each_image_is_told():
  given = data()
  log_y, labels = told_transforms.log_probabilities(encoder(), UPSIDE_DOWN, given.test, given)
  assert log_y.shape == (24, 2, 2)
  np.testing.assert_array_equal(labels, given.test.labels)
  (images,) = given.test.read(np.arange(24), ('image',))
  for way, seen in enumerate((images, images[:, ::-1])):
    expected = jax.nn.log_softmax(encoder()(seen))
    np.testing.assert_allclose(log_y[:, way], expected, atol=1e-5)


@pytest.mark.parametrize(('normal', 'auroc'), [((0,), 1.0), ((1,), 0.0), ((0, 2), 1.0)])
def test_the_class_that_it_was_trained_on_is_normal(normal, auroc):
  """By probability class 0 comes first, class 1 last; the Dirichlets learn what is usual."""
  found = told_transforms.anomaly(encoder(), UPSIDE_DOWN, data(), normal)
  name = ', '.join(map(str, normal))
  assert found['probability'] == {'auroc': auroc, 'by_class': {name: auroc}}
  if len(normal) == 1:
    assert found['dirichlet']['auroc'] == 1.0
