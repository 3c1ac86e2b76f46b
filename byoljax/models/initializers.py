"""Random initial values, drawn in one piece for a whole network (`draw_together`).

An initializer here marks what it drew with how it was drawn (`Drawn`), so that `models.net` can
draw all parameters again at once: every separate draw is compiled separately, which takes longer
than compiling a small network.
"""

from collections.abc import Callable, Iterator
import contextlib
import contextvars
import math
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

# kind -> (constant folded into the key, (key, shape) -> noise of unit scale)
_NOISE: dict[str, tuple[int, Callable[..., jax.Array]]] = {
  'normal': (0, jax.random.normal),
  'truncated': (1, lambda key, shape: jax.random.truncated_normal(key, -2.0, 2.0, shape)),
  'uniform': (2, lambda key, shape: jax.random.uniform(key, shape, minval=-1.0, maxval=1.0)),
}

# Not Callable[..., Drawn]: linen hands out what was drawn as a plain array, which type checkers
# cannot know.
Initializer = Callable[..., Any]


@flax.struct.dataclass
class Drawn(nn.meta.AxisMetadata):
  """A parameter with a random initial value: that value, and how it was drawn.

  Attributes:
    value: float32 array, what linen works with.
    scale: standard deviation of the normal, before truncation, or bound of the uniform one.
    kind: 'normal', 'truncated' (a normal truncated at two sigma, not rescaled) or 'uniform'.
  """

  value: jax.Array
  scale: float = flax.struct.field(pytree_node=False)
  kind: str = flax.struct.field(pytree_node=False)

  def unbox(self) -> jax.Array:
    """The value alone."""
    return self.value

  def replace_boxed(self, val: jax.Array) -> 'Drawn':
    """The same distribution around another value."""
    return self.replace(value=val)  # type: ignore[attr-defined]

  def add_axis(self, index: int, params: dict) -> 'Drawn':
    """Unchanged: a distribution has no axes."""
    del index, params
    return self

  def remove_axis(self, index: int, params: dict) -> 'Drawn':
    """Unchanged: a distribution has no axes."""
    del index, params
    return self


_SHAPES_ALONE = contextvars.ContextVar('shapes_alone', default=False)


@contextlib.contextmanager
def shapes_alone() -> Iterator[None]:
  """Within, the initializers here give zeros, which are traced in less time than noise.

  For where values do not matter: ahead of `draw_together`, and where linen has the parameters and
  compares their shapes with the initializers'.
  """
  token = _SHAPES_ALONE.set(True)
  try:
    yield
  finally:
    _SHAPES_ALONE.reset(token)


def _draw(key: jax.Array, shape: tuple[int, ...], scale: float, kind: str) -> Drawn:
  if _SHAPES_ALONE.get():
    return Drawn(jnp.zeros(shape), scale, kind)
  return Drawn(scale * _NOISE[kind][1](key, shape), scale, kind)


def he_normal_fan_out(key: jax.Array, shape: tuple[int, ...], dtype=jnp.float32) -> Drawn:
  """N(0, 2 / fan_out) for a kernel [...,in,out] (He et al. 2015): torchvision's ResNets' start."""
  del dtype  # all parameters are float32
  return _draw(key, shape, math.sqrt(2.0 / (math.prod(shape[:-2]) * shape[-1])), 'normal')


def he_normal_fan_in(key: jax.Array, shape: tuple[int, ...], dtype=jnp.float32) -> Drawn:
  """N(0, 2 / fan_in) for a kernel [...,out] (He et al. 2015): ReLUs keep the size of signals."""
  del dtype
  return _draw(key, shape, math.sqrt(2.0 / math.prod(shape[:-1])), 'normal')


def he_normal_transposed(key: jax.Array, shape: tuple[int, ...], dtype=jnp.float32) -> Drawn:
  """The same for a transposed convolution of stride 2: a place sees a quarter of the kernel."""
  del dtype
  return _draw(key, shape, math.sqrt(8.0 / math.prod(shape[:-1])), 'normal')


def fan_in_truncated_normal(key: jax.Array, shape: tuple[int, ...], dtype=jnp.float32) -> Drawn:
  """N(0, 1 / fan_in) truncated at two sigma, not rescaled: Haiku's default; kernel [...,out]."""
  del dtype
  return _draw(key, shape, 1.0 / math.sqrt(math.prod(shape[:-1])), 'truncated')


def fan_in_uniform(key: jax.Array, shape: tuple[int, ...], dtype=jnp.float32) -> Drawn:
  """U(-a, a) with a = 1 / sqrt(fan_in), for a kernel [...,out]: PyTorch's linear layers."""
  del dtype
  return _draw(key, shape, 1.0 / math.sqrt(math.prod(shape[:-1])), 'uniform')


def normal(sigma: float) -> Initializer:
  """The initializer N(0, sigma^2), for any shape."""
  return lambda key, shape, dtype=jnp.float32: _draw(key, shape, sigma, 'normal')


def xavier_uniform(parts: int = 1) -> Initializer:
  """U(-a, a) with a = sqrt(6 / (in + out / parts)), for a kernel [in,out] (Glorot, Bengio 2010).

  `parts` is the number of matrices side by side in the kernel.
  """

  def init(key: jax.Array, shape: tuple[int, ...], dtype=jnp.float32) -> Drawn:
    del dtype
    return _draw(key, shape, math.sqrt(6.0 / (shape[0] + shape[1] / parts)), 'uniform')

  return init


def draw_together(tree: Any, key: jax.Array) -> Any:
  """The tree with every Drawn replaced by a fresh draw from its distribution, as a plain array.

  All values of one kind come from a single draw that is cut into pieces, in the order of the tree.
  Other leaves stay as they are.
  """
  leaves, structure = jax.tree.flatten(tree, is_leaf=lambda x: isinstance(x, Drawn))
  for kind, (constant, draw) in _NOISE.items():
    where = [i for i, x in enumerate(leaves) if isinstance(x, Drawn) and x.kind == kind]
    if not where:
      continue
    total = sum(leaves[i].value.size for i in where)
    noise = draw(jax.random.fold_in(key, constant), (total,))
    for i in where:
      own, noise = jnp.split(noise, [leaves[i].value.size])
      leaves[i] = leaves[i].scale * own.reshape(leaves[i].value.shape)
  return jax.tree.unflatten(structure, leaves)
