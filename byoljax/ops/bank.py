"""A memory bank: one unit row per training image (Wu et al. 2018, arXiv 1805.01978).

ImageNet's bank has 656 MB, so updates are scatters, which happen in place if the state is donated.
"""

import math

import jax
from jax import lax
import jax.numpy as jnp

from byoljax.ops import memory, sphere


def init(key: jax.Array, size: int, dim: int) -> jax.Array:
  """Uniform samples in +-sqrt(3/D), float32 [N,D]: rows of norm about 1, as in the authors' code.

  Raises:
    ValueError: size or dim below 1.
  """
  if size < 1 or dim < 1:
    raise ValueError(f'a bank needs a size and a dimension of at least 1, got {size} and {dim}')
  bound = math.sqrt(3.0 / dim)
  return jax.random.uniform(key, (size, dim), jnp.float32, -bound, bound)


def update(
  bank: jax.Array,
  index: jax.Array,
  rows: jax.Array,
  momentum: float | jax.Array,
  valid: jax.Array | bool = True,
  *,
  size: int | None = None,
  axis: str | None = None,
) -> jax.Array:
  """v_i <- n(m v_i + (1 - m) n(f_i)), n the normalization to unit norm.

  Args:
    bank: float32 [N,D], or this device's shard (`ops.memory`); updated in place in a compiled step
      that donates it.
    index: int [B], positions in [0, N) of the rows of all devices. If an index occurs twice, the
      last row wins on every device (a scatter alone would leave that undefined). Indices out of
      range are ignored.
    rows: embeddings [B,D], any norm and float dtype. No gradient flows through the bank.
    momentum: m in [0, 1]; .5 in the paper, 0 overwrites.
    valid: bool scalar; if False, nothing is written.
    size: N; needed if `bank` may be a shard.
    axis: the mapped axis over which it may be sharded, or None.

  Returns:
    The updated bank, sharded as `bank` is.

  Raises:
    ValueError: invalid shapes or types.
  """
  if rows.ndim != 2 or rows.shape[1:] != bank.shape[1:] or index.shape != rows.shape[:1]:
    raise ValueError(
      f'a bank {bank.shape} takes index [B] and rows [B,{bank.shape[-1]}], got {index.shape} and '
      f'{rows.shape}'
    )
  if not jnp.issubdtype(index.dtype, jnp.integer):
    raise ValueError(f'index must hold integers, got {index.dtype}')
  size = size or bank.shape[0]
  position = jnp.arange(index.shape[0], dtype=jnp.int32)
  repeats = (index[:, None] == index[None, :]) & (position[:, None] < position[None, :])
  is_written = ~jnp.any(repeats, axis=1) & valid
  old = bank.at[memory.own_rows(bank, index, size=size, axis=axis)].get(mode='clip')
  new = sphere.normalize(momentum * old + (1.0 - momentum) * sphere.normalize(rows))
  places = jnp.where(is_written, index, size)  # Rows past the end are dropped.
  return memory.put(bank, places, lax.stop_gradient(new), size=size, axis=axis)
