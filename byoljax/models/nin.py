"""Network in network, in the form that RotNet trains on CIFAR-10.

Lin, Chen, Yan, "Network in network" (arXiv 1312.4400); the blocks are those of RotNet's code
(Gidaris et al., arXiv 1803.07728): a 5x5 or 3x3 convolution and two 1x1 ones with 192 channels
(192, 160 and 96 in the first block), batch normalization and ReLU behind each. The first block ends
with a max pool, the second with an average pool, both 3x3 with stride 2, padded; there is no
dropout. RotNet's blocks, from which its Table 1 reads features, are the taps 'block1' ... here, the
pools included. The table's networks with 3, 4 and 5 blocks are 'nin3', 'nin' and 'nin5'.

Difference: kernels begin with variance 2 / fan_in, RotNet's with 2 / fan_out; batch normalization
takes the scale away.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from byoljax.models import layers
from byoljax.models.units import ConvUnit

# name -> number of blocks
NINS = {'nin3': 3, 'nin': 4, 'nin5': 5}


class NIN(nn.Module):
  """Blocks of three convolutions, then the mean over space: maps of 16, 8, 8, 8 at 32 pixels.

  `width` multiplies every channel count. Behind ReLU, 'block1_conv1', 'block1_conv2' and, with the
  block's pool, 'block1' can be read out through `byoljax.models.net.stack(..., taps=...)`, and
  likewise of the other blocks.
  """

  blocks: int
  width: float = 1
  remat: bool = False
  dtype: jnp.dtype = jnp.float32
  bn_axis: str | None = None
  bn_groups: int = 0

  @nn.compact
  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    """Images float32 [b,H,W,C] -> embedding float32 [b,192 * width]."""
    for block in range(1, self.blocks + 1):
      kernel = 5 if block < 3 else 3
      channels = (192, 160, 96) if block == 1 else (192, 192, 192)
      for number, (size, features) in enumerate(
        zip((kernel, 1, 1), channels, strict=True), start=1
      ):
        unit = ConvUnit(
          layers.widened(features, self.width),
          size,
          dtype=self.dtype,
          bn_axis=self.bn_axis,
          bn_groups=self.bn_groups,
          name=f'block{block}_layer{number}',
        )
        x = layers.recomputed(unit, self.remat)(x, train=train)
        if number < 3:
          self.sow('intermediates', f'block{block}_conv{number}', x)
      if block < 3:
        pool = nn.max_pool if block == 1 else nn.avg_pool
        x = pool(x, (3, 3), (2, 2), padding=layers.padding_of(3, 'torch'))
      self.sow('intermediates', f'block{block}', x)
    return jnp.mean(x.astype(jnp.float32), axis=(1, 2))
