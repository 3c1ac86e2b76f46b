"""Vision transformers: the encoders of MoCo v3, DINO, MAE, DINOv2 and DINOv3.

Dosovitskiy et al., arXiv 2010.11929, in the form of MoCo v3 (arXiv 2104.02057): pre-norm blocks,
exact GELU, LayerNorm with eps 1e-6, biases everywhere, 2-D sine-cosine positions that are not
learned, the class token at position zero. Xavier-uniform linear layers, query, key and value as
three matrices of their own and the patch embedding as the linear layer that it is; biases zero; the
class token normal with sigma 1e-6.

Differences: positions are continuous. Whatever the number of patches, they span the same range of
coordinates (14 x 14, those of 224 pixels in patches of 16), patch i of n being centered at
(i + 1/2) 14/n - 1/2: small crops see the whole range more coarsely, as with DINO's interpolation of
learned positions. Other patch sizes than 16 keep that range, where MoCo v3's code would count
patches. 'sincos_xy' are MAE's positions, across before down. With `positions='learned'`, as in DINO
and timm, the class token has a position, too, and maps of another size than the table's see it
resampled by DINO's rule (timm's, which averages where a map shrinks, differs a little). Every pass
is a pure function of parameters and inputs: who wants stochastic depth draws the factors of the
residual branches and hands them in. The residual stream, LayerNorm and softmax are float32 under
any compute type.

DINOv2's (arXiv 2304.07193, and 2309.16588 for the registers) have learned scales on the branches,
in the largest one SwiGLU, and perhaps four further tokens, the registers, behind the class token:
they take part in attention, have no position, and are left out of what is read. With them the
authors resample positions in another way, see `positions.smooth_matrix`. Their patches have 14
pixels; published positions are those of 37 x 37. The mask token of their training is not there.

DINOv3's (arXiv 2508.10104) have registers, scales and, in the sizes 'plus' and '7b', SwiGLU;
LayerNorm with eps 1e-5, no bias of the keys, and rotary positions, see `positions.rotary_angles`:
maps of any size see them without resampling. The authors' random shifts and scales of the
coordinates while they trained are not there. 'rope_bf16' has periods rounded to bfloat16, as the
authors' checkpoints store them. Any of the networks may have rotary positions; then their attention
is that of DINOv3.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from byoljax.models import initializers, layers
from byoljax.models.positions import resampled, rotary_angles, sincos_positions
from byoljax.models.vit_block import Block, layer_norm, linear
from byoljax.models.vit_sizes import VITS, Size
from byoljax.ops import fused_attention

POOLS = ('cls', 'mean')
ROTARY = ('rope', 'rope_bf16')
POSITIONS = ('sincos', 'sincos_xy', 'learned', *ROTARY)


class ViT(nn.Module):
  """Patches, class token, blocks, LayerNorm; then the class token or the mean of the patches.

  `pool` 'cls' or 'mean' (patches only; the class token takes part in attention all the same, and
  parameters are alike). `positions` see `POSITIONS`; learned ones start as normals of sigma 0.02,
  for the `size.grid`. Images of any size that the patch divides, square or not. The tokens
  after each block, float32 [b,1 + patches,D] with the class token first, can be read out as
  'tokens1' ... through `byoljax.models.net.stack(..., taps=...)`, and as 'tokens' those after the
  last LayerNorm.

  A further input `keep` names the patches of each image that are computed, as masked autoencoders
  need it; through `Net.apply(..., inputs={'encoder': {'keep': keep}})`. Another, `branches`, are
  factors of the residual branches, as stochastic depth needs them. `hidden` and `filler` put
  something else in the place of patches, as BEiT does. `attention` is computed by 'xla' or, on
  NVIDIA GPUs, by 'cudnn', see `byoljax.ops.fused_attention`.
  """

  size: Size
  patch_size: int = 0
  pool: str = 'cls'
  positions: str = 'sincos'
  remat: bool = False
  dtype: jnp.dtype = jnp.float32
  attention: str = 'xla'

  @property
  def patch(self) -> int:
    """Edge of a patch in pixels."""
    return self.patch_size or self.size.patch

  @property
  def grid(self) -> int:
    """Patches on each side that positions are made for."""
    return self.size.grid

  @property
  def depth(self) -> int:
    """Number of blocks."""
    return self.size.depth

  def __call__(
    self,
    x: jax.Array,
    *,
    train: bool,
    keep: jax.Array | None = None,
    branches: jax.Array | None = None,
    hidden: jax.Array | None = None,
    filler: jax.Array | None = None,
  ) -> jax.Array:
    """Images float32 [b,H,W,C] -> embedding float32 [b,D].

    Args:
      x: images.
      train: nothing here depends on it.
      keep: see `tokens`.
      branches: see `tokens`.
      hidden: see `tokens`.
      filler: see `tokens`.

    Raises:
      ValueError: H or W is not a multiple of the patch.
    """
    del train
    x = self.tokens(x, keep, branches, hidden, filler)
    return x[:, 0] if self.pool == 'cls' else jnp.mean(x[:, 1:], axis=1)

  @nn.compact
  def tokens(
    self,
    x: jax.Array,
    keep: jax.Array | None = None,
    branches: jax.Array | None = None,
    hidden: jax.Array | None = None,
    filler: jax.Array | None = None,
  ) -> jax.Array:
    """Images float32 [b,H,W,C] -> tokens float32 [b,1 + k,D], the class token first.

    Args:
      x: images.
      keep: int [b,k], the patches, counted row by row, that are embedded and attended to, in this
        order; the others are not computed. None: all of them.
      branches: float32 [b,depth,2], factors of what the attention and the MLP of each block add to
        the residual stream; 0 leaves a block out. None: 1.
      hidden: bool [b,n], True for patches that are not seen, but have a token; not with `keep`.
      filler: float32 [D], what stands in the place of their embedding.

    Raises:
      ValueError: H or W is not a multiple of the patch, or keep is not [b,k].
    """
    size, patch, rotary = self.size, self.patch, self.positions in ROTARY
    dim, grid = size.dim, size.grid
    batch, height, width = x.shape[0], x.shape[1] // patch, x.shape[2] // patch
    if keep is not None and (keep.ndim != 2 or keep.shape[0] != batch):
      raise ValueError(f'keep is [b,k] with b = {batch}, got {keep.shape}.')
    x = linear(dim, self.dtype, 'patch_embed')(_kept(patches(x, patch), keep)).astype(jnp.float32)
    if hidden is not None:
      if filler is None:
        raise ValueError('hidden patches need what stands for them: give `filler`, too.')
      x = jnp.where(hidden[:, :, None], filler[None, None], x)
    cls = self.param('cls', initializers.normal(1e-6), (dim,), jnp.float32)
    if self.positions == 'learned':
      shape = (1 + grid * grid, dim)
      table = self.param('positions', initializers.normal(0.02), shape, jnp.float32)
      here = resampled(table, height, width, smooth=size.registers > 0)
      cls, x = cls + here[0], x + _kept(here[None, 1:], keep)
    elif not rotary:
      xy = self.positions == 'sincos_xy'
      here = jnp.asarray(sincos_positions(height, width, dim, grid, xy=xy))[None]
      x = x + _kept(here, keep)
    cls = jnp.broadcast_to(cls[None, None, :], (batch, 1, dim))
    first = [cls]
    if size.registers:
      shape = (size.registers, dim)
      more = self.param('registers', initializers.normal(1e-6), shape, jnp.float32)
      first.append(jnp.broadcast_to(more[None], (batch, *shape)))
    x = jnp.concatenate([*first, x], axis=1)
    angles = self._angles(height, width, keep) if rotary else None
    form = (size.layer_scale, size.swiglu, size.hidden, size.epsilon, self.attention)
    for i in range(1, size.depth + 1):
      made = Block(size.heads, self.dtype, *form, name=f'block{i}')
      block = layers.recomputed(made, self.remat)
      x = block(x, branches=None if branches is None else branches[:, i - 1], angles=angles)
      self.sow('intermediates', f'tokens{i}', self._read(x))
    x = self._read(layer_norm('norm', size.epsilon)(x))
    self.sow('intermediates', 'tokens', x)
    return x

  def _angles(self, height: int, width: int, keep: jax.Array | None) -> jax.Array:
    """Of rotary positions [b,n,D / heads / 2]: nothing turns the class token and the registers."""
    size = self.size
    of = rotary_angles(height, width, size.dim // size.heads, rounded=self.positions == 'rope_bf16')
    here = _kept(jnp.asarray(of)[None], keep)
    return jnp.pad(here, ((0, 0), (1 + size.registers, 0), (0, 0)))

  def _read(self, x: jax.Array) -> jax.Array:
    """The tokens without the registers."""
    count = self.size.registers
    return jnp.concatenate([x[:, :1], x[:, 1 + count :]], axis=1) if count else x


def _kept(x: jax.Array, keep: jax.Array | None) -> jax.Array:
  """The rows of [b,n,D], or of [1,n,D] for all images, that each image keeps: [b,k,D]."""
  if keep is None:
    return x
  if x.shape[0] == 1:
    return x[0][keep]
  return jnp.take_along_axis(x, keep[:, :, None], axis=1)


def patches(images: jax.Array, patch: int) -> jax.Array:
  """Images [b,H,W,C] cut into squares, row by row: [b,(H / patch) * (W / patch),patch^2 * C].

  Raises:
    ValueError: H or W is not a multiple of the patch.
  """
  batch, height, width, channels = images.shape
  if height % patch or width % patch:
    raise ValueError(
      f'images of {height} x {width} pixels cannot be cut into patches of {patch}: '
      f'choose an image size that is a multiple of {patch}, or another patch_size.'
    )
  x = images.reshape(batch, height // patch, patch, width // patch, patch, channels)
  return x.swapaxes(2, 3).reshape(batch, -1, patch * patch * channels)


def with_patches(
  images: jax.Array, masked: jax.Array, others: jax.Array | float, patch: int
) -> jax.Array:
  """Images [b,H,W,C] with other patches where `masked`, bool [b,H / patch,W / patch], says so.

  Args:
    images: of `patches`.
    masked: which are replaced.
    others: the patches there, [b,n,patch^2 * C], or one number.
    patch: edge in pixels.
  """
  x = patches(images, patch)
  x = jnp.where(masked.reshape(*x.shape[:2], 1), others, x)
  x = x.reshape(*masked.shape, patch, patch, -1)
  return x.swapaxes(2, 3).reshape(images.shape)


def make(
  name: str,
  *,
  width: int = 1,
  patch_size: int = 0,
  pool: str = 'cls',
  positions: str = 'sincos',
  grid: int = 0,
  remat: bool = False,
  dtype: Any = jnp.float32,
  attention: str = 'xla',
) -> ViT:
  """The named vision transformer; `width` multiplies the tokens' width and the heads.

  Raises:
    ValueError: other positions than the network's own, rotary ones; what attention by 'cudnn' does
      not take.
  """
  size = VITS[name]
  if size.rotary and positions not in ROTARY:
    raise ValueError(
      f'encoder {name!r} has rotary positions: set positions to {" or ".join(ROTARY)}, not '
      f'{positions!r}'
    )
  size = size._replace(dim=size.dim * width, heads=size.heads * width, grid=grid or size.grid)
  if attention == 'cudnn':
    fused_attention.check(dtype, size.dim // size.heads)
  return ViT(size, patch_size, pool, positions, remat, dtype, attention)
