"""New images of a trained method, where it can draw any: `Method.sample`.

sampler = require_sampler(pathlib.Path('runs/pixelcnn'))
images = sampler.draw(sampler.steps()[-1], Sampling(count=64))  # float32 [64, S, S, 3]
"""

from collections.abc import Callable
import dataclasses
import functools
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from byoljax import streams
from byoljax.config import ConfigError, user_errors
from byoljax.data.sources import arrays
from byoljax.encoders.stored_method import StoredMethod
from byoljax.ops import sampling as drawing
from byoljax.ops.sampling import Sampling

_TOGETHER = 256  # images, as many as memory has to hold what a network keeps of them


@dataclasses.dataclass(frozen=True)
class Sampler(StoredMethod):
  """A run's method, which draws images at any of its checkpoints."""

  @property
  def size(self) -> int:
    """Side of the images that it was trained on, in pixels."""
    return self.specs[0].size

  def draw(
    self, step: int, sampling: Sampling, *, seed: int = 0, condition: int | None = None
  ) -> np.ndarray:
    """New images, float32 [n, S, S, C] in [0, 1], a function of the seed and of `sampling`.

    Args:
      step: of the checkpoint.
      sampling: how, and how many, of which 256 are drawn at a time; its size is set to that of the
        training images.
      seed: the same one gives the same images; in [0, 2**32).
      condition: the class of all of them; None: any.

    Raises:
      ConfigError: a value out of range, a class where the method knows none, or a checkpoint that
        is damaged.
    """
    if not 0 <= seed < 2**32:
      raise ConfigError(f'seed={seed} must be at least 0 and at most {2**32 - 1}.')
    sampling = sampling._replace(size=self.size)
    channels = self.preprocessing.channels
    blank = np.zeros((2, self.size, self.size, channels), np.uint8)
    with user_errors():
      drawing.check(sampling)
    nothing = arrays.from_arrays(blank, None, name='nothing', channels=channels)
    params, state = self.stored(step, nothing)
    key = jax.random.fold_in(jax.random.key(seed), streams.SAMPLES)
    together = sampling._replace(count=min(sampling.count, _TOGETHER))
    classes = None if condition is None else jnp.full(together.count, condition, jnp.int32)
    with user_errors():
      drawn = [
        np.asarray(self._compiled(params, state, jax.random.fold_in(key, first), classes, together))
        for first in range(0, sampling.count, together.count)
      ]
    return np.concatenate(drawn)[: sampling.count]

  @functools.cached_property
  def _compiled(self) -> Callable[..., Any]:
    assert self.method.sample is not None
    return jax.jit(self.method.sample, static_argnums=4)


def sampler(run: pathlib.Path) -> Sampler | None:
  """Of a run; None where its method draws nothing, or is not known.

  Raises:
    ConfigError: no run there, or one whose method cannot be built.
  """
  found = Sampler.of(run)
  return found if found is not None and found.method.sample is not None else None


def require_sampler(run: pathlib.Path) -> Sampler:
  """`sampler`, or a ConfigError that says that nothing can be drawn."""
  found = sampler(run)
  if found is None:
    raise ConfigError(
      f"'{run}' was trained by a method that draws no images: name a run of a generative one, such "
      'as pixelcnn.'
    )
  return found
