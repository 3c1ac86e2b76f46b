"""The networks of Exemplar-CNN, for patches of 32 pixels.

Dosovitskiy et al., "Discriminative unsupervised feature learning with exemplar convolutional neural
networks" (NIPS 2014, arXiv 1406.6909): 5x5 convolutions with ReLU, a 2x2 max pool behind the first
and the second, and one fully connected layer; in the paper's notation 64c5-64c5-128f,
64c5-128c5-256c5-512f and 92c5-256c5-512c5-1024f. There is no normalization.

Differences: no dropout, which the paper has on the fully connected layer; convolutions are padded
to keep the map's size, of which the paper says nothing.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from byoljax.models import layers, pooling
from byoljax.models.units import ConvUnit, LinearUnit

# name -> channels of the convolutions, width of the fully connected layer
EXEMPLAR_CNNS = {
  'exemplar_cnn_small': ((64, 64), 128),
  'exemplar_cnn': ((64, 128, 256), 512),
  'exemplar_cnn_large': ((92, 256, 512), 1024),
}
# Edge of the last map at 32 pixels, which the fully connected layer reads.
GRID = 8


class ExemplarCNN(nn.Module):
  """Convolutions with biases and ReLU, two of them pooled, and one fully connected layer.

  `width` multiplies every width. Maps of other sizes than 8x8 are pooled to that for the fully
  connected layer. 'conv1' ... behind ReLU and before the pool can be read out through
  `byoljax.models.net.stack(..., taps=...)`.
  """

  channels: tuple[int, ...]
  fc_dim: int
  width: float = 1
  remat: bool = False
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """Images float32 [b,H,W,C] -> embedding float32 [b,fc_dim * width].

    Raises:
      ValueError: images smaller than 4 pixels.
    """
    images = x
    for number, channels in enumerate(self.channels, start=1):
      wide = layers.widened(channels, self.width)
      unit = ConvUnit(wide, 5, norm=False, dtype=self.dtype, name=f'layer{number}')
      x = layers.recomputed(unit, self.remat)(x, train=train)
      self.sow('intermediates', f'conv{number}', x)
      if number < 3:
        x = nn.max_pool(x, (2, 2), (2, 2))
    layers.require_places(x, images)
    x = pooling.adaptive_pool(x, GRID)
    x = x.reshape(x.shape[0], -1)
    fc = LinearUnit(
      layers.widened(self.fc_dim, self.width), norm=False, dtype=self.dtype, name='fc'
    )
    return fc(x, train=train).astype(jnp.float32)
