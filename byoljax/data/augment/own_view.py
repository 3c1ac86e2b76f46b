"""What a user's own function does to a view, after the photometric operations.

    def darker(image, key):  # float32 [S, S, C] in [0, 1], and a key of this image and view alone
      return image * jax.random.uniform(key, (), minval=0.5)

It is called for one image at a time, within the jitted step, so it is made of JAX's functions. Its
result is clipped to [0, 1] and normalized as any view is. A key is a function of seed, epoch,
example and view, as all draws of the augmentation are.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from byoljax import own, streams

# (image float32 [S, S, C] in [0, 1], key) -> the same shape
Own = Callable[[jax.Array, jax.Array], jax.Array]


def find(path: str) -> Own | None:
  """The function that a path leads to; None for ''.

  Raises:
    ValueError: it cannot be imported.
  """
  if not path:
    return None
  if not own.is_path(path):
    raise ValueError(f"own='{path}' is no import path, such as 'mine:darker'.")
  found: Any = own.find('view', path)
  return found


def apply(
  images: jax.Array, function: Own | None, path: str, seed: int, batch: dict[str, Any], view: int
) -> jax.Array:
  """The images after the function, float32 [b, S, S, C] in [0, 1].

  Args:
    images: float32 [b, S, S, C] in [0, 1].
    function: see `find`; None leaves them as they are.
    path: what it is called in messages.
    seed: of the run.
    batch: with 'epoch' and 'index', int32 [b].
    view: the number of the view.

  Raises:
    ValueError: when traced: the function fails, or its result has another shape or type.
  """
  if function is None:
    return images
  run = jax.random.fold_in(jax.random.key(seed), streams.OWN_VIEW)

  def one(image: jax.Array, epoch: jax.Array, index: jax.Array) -> jax.Array:
    key = run
    for number in (epoch, index, view):
      key = jax.random.fold_in(key, number)
    return function(image, key)

  try:
    made: Any = jax.vmap(one)(images, batch['epoch'], batch['index'])
  except (ValueError, TypeError) as error:
    raise ValueError(
      f"the view '{path}' fails; it must be a function (image, key) of JAX operations only: "
      f'{str(error).splitlines()[0]}'
    ) from error
  if getattr(made, 'shape', None) != images.shape or not jnp.issubdtype(made.dtype, jnp.floating):
    size = list(images.shape[1:])
    got = f'{made.dtype}{list(made.shape[1:])}' if hasattr(made, 'shape') else type(made).__name__
    raise ValueError(
      f"the view '{path}' makes {got} of an image float32{size}: it must return floats of that "
      'shape.'
    )
  return jnp.clip(made.astype(images.dtype), 0.0, 1.0)
