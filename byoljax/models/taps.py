"""What can be read out of a network (`models.net`), and how it becomes one vector an image."""

from collections.abc import Sequence
import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from byoljax.models import pooling
from byoljax.models.net import Inputs, Net, read_source, run_part, stack, unknown_name

POOLS = ('cls', 'mean', 'none')


def taps_of(net: Net, x: Any, inputs: Inputs | None = None) -> dict[str, tuple[int, ...]]:
  """Everything that can be read out of a network, in the order in which it is computed.

  Inner feature maps of the first part go by their own name ('stage1'), those of later parts by
  their role, too ('projector/hidden1'); outputs by theirs. Nothing is computed.

  Args:
    net: a stack.
    x: an input, of which the shape matters.
    inputs: further named inputs, of which the shapes matter.

  Returns:
    {name: shape}, with the batch first.
  """
  found: dict[str, tuple[int, ...]] = {}
  sources = dict(net.reads)

  def run(key: jax.Array, x: jax.Array, named: Inputs) -> None:
    params, stats = net.init(key, x, named)
    made: dict[str, Any] = {}
    for number, (role, name, module) in enumerate(net.parts):
      if role in sources:
        x = read_source(sources[role], made)
      more = named.get(role, {})
      x, _, inner = run_part(module, params[role], stats[role], x, False, True, more)
      made |= {f'{role}/{tap}': value for tap, value in inner.items()} | {name: x}
      prefix = f'{role}/' if number else ''
      found.update({prefix + tap: value.shape for tap, value in inner.items()})
      found[name] = x.shape

  shape = jax.ShapeDtypeStruct(x.shape, jnp.float32)
  jax.eval_shape(run, jax.random.key(0), shape, dict(inputs or {}))
  return found


def maps_of(encoder: nn.Module, channels: int, side: int) -> dict[str, tuple[int, ...]]:
  """As `taps_of`, of an encoder alone and one square image of `probed_side`.

  Args:
    encoder: a module called as module(images, train=...).
    channels: of the image.
    side: in pixels, about; large enough for the encoder's kernels, as nothing is computed.
  """
  side = probed_side(encoder, side)
  net = stack((('encoder', 'embedding', encoder),))
  return taps_of(net, jax.ShapeDtypeStruct((1, side, side, channels), jnp.float32))


def probed_side(encoder: nn.Module, side: int) -> int:
  """The side of images that an encoder has positions for, in pixels; else about `side`."""
  patch = getattr(encoder, 'patch', 1)
  return (getattr(encoder, 'grid', 0) or max(1, side // patch)) * patch


def truncate(net: Net, taps: Sequence[str]) -> Net:
  """The network as far as these taps need it, with the inner ones among its outputs.

  The same network and taps give the same value, so what was compiled for it is found again.

  Args:
    net: a stack.
    taps: names of `taps_of`.
  """
  return _truncate(net, tuple(taps))


@functools.cache
def _truncate(net: Net, taps: tuple[str, ...]) -> Net:
  names = [name for _, name, _ in net.parts]
  roles = [role for role, _, _ in net.parts]
  inner = tuple(tap for tap in taps if tap not in names)
  # An inner map's role stands in front of its name; without one it is the first part's.
  need = [names.index(tap) if tap in names else _part(tap, roles) for tap in taps]
  parts = net.parts[: max(need) + 1]
  kept = {role for role, _, _ in parts}
  return stack(parts, inner, {role: source for role, source in net.reads if role in kept})


def _part(tap: str, roles: list[str]) -> int:
  role = tap.partition('/')[0]
  return roles.index(role) if role in roles else 0


def pooled(x: jax.Array, pool: str | None = 'cls') -> jax.Array:
  """One vector an image, float32 [b,D], from any tap; or the tap as it is.

  Args:
    x: [b,D], which stays as it is; a feature map [b,h,w,C], averaged over h and w, or one of
      several vectors a place [b,h,w,M,C], of which the averages stand side by side; or the tokens
      of a vision transformer [b,1 + patches,D].
    pool: of tokens: 'cls', the class token, or 'mean', the patches' mean, as the encoder itself
      does it. 'none' or None: maps and tokens stay as they are.

  Raises:
    ValueError: an unknown `pool`.
  """
  if pool not in (None, *POOLS):
    raise ValueError(unknown_name('pool', str(pool), list(POOLS)))
  x = x.astype(jnp.float32)
  if pool in (None, 'none'):
    return x
  if x.ndim > 3:
    return x.mean((1, 2)).reshape(len(x), -1)
  if x.ndim == 3:
    return x[:, 0] if pool == 'cls' else x[:, 1:].mean(1)
  return x


def gridded(
  x: jax.Array, dimensions: int, kind: str = 'mean', pool: str | None = 'cls'
) -> jax.Array:
  """A map pooled to a grid of about so many values: float32 [b,n,n,C], n = round(sqrt(size / C)).

  What the papers that probe layer by layer do (Zhang et al., arXiv 1603.08511): maps of all depths
  give about 9,000 values, AlexNet's [b,12,12,64] ... [b,6,6,256]. A side is not made larger than
  the map; other taps than maps are one vector, see `pooled`.

  Args:
    x: a tap.
    dimensions: about how many values, at least 1.
    kind: 'mean' or 'max' of a place of the grid.
    pool: of tokens.
  """
  if x.ndim != 4:
    return pooled(x, pool)
  edge = max(1, round((dimensions / x.shape[-1]) ** 0.5))
  edge = min(edge, *x.shape[1:3])
  return pooling.adaptive_pool(x.astype(jnp.float32), edge, kind)
