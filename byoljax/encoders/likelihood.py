"""What images cost under a trained model of their distribution: `Method.bits`, at any checkpoint.

scorer = require_scorer('runs/pixelcnn')
bits = scorer.score(scorer.steps()[-1], source)  # float32 [n], per dimension
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
from byoljax.data.batches import pipeline
from byoljax.data.sources.source import Source
from byoljax.encoders.stored_method import StoredMethod

_BATCH = 64


def some(source: Source, most: int) -> Source:
  """At most `most` images of a source, always the same ones."""
  order = np.random.default_rng((0, streams.REPORT_SAMPLE, 3)).permutation(source.size)
  return source.subset(np.sort(order[:most]))


@dataclasses.dataclass(frozen=True)
class Scorer(StoredMethod):
  """A run's method, which says what images cost at any of its checkpoints."""

  def score(self, step: int, source: Source) -> np.ndarray:
    """Bits per dimension of each image that can be read, float32 [n].

    Whole images at the size of evaluations, in evaluation mode.

    Args:
      step: of the checkpoint.
      source: the images.

    Raises:
      ConfigError: a checkpoint that does not fit or is damaged, or images that do not.
    """
    state, found = self.stored(step, source), []
    with user_errors():
      batches = pipeline.eval_batches(
        source, image_size=self.preprocessing.image_size, batch_size=min(_BATCH, source.size)
      )
      for batch in batches:
        made = self._compiled(*state, jnp.asarray(batch['image']), jnp.asarray(batch['label']))
        found.append(np.asarray(made)[batch['valid']])
    return np.concatenate(found)

  @functools.cached_property
  def _compiled(self) -> Callable[..., jax.Array]:
    assert self.method.bits is not None
    bits = self.method.bits

    def score(params: Any, state: Any, images: jax.Array, label: jax.Array) -> jax.Array:
      view = self.preprocessing.normalize(images)
      return bits(params, state, {'views': (view,), 'label': label})

    return jax.jit(score)


def scorer(run: pathlib.Path) -> Scorer | None:
  """Of a run; None where its method has no likelihood, or is not known.

  Raises:
    ConfigError: no run there, or one whose method cannot be built.
  """
  found = Scorer.of(run)
  return found if found is not None and found.method.bits is not None else None


def require_scorer(run: pathlib.Path) -> Scorer:
  """`scorer`, or a ConfigError that says that there is no likelihood."""
  found = scorer(run)
  if found is None:
    raise ConfigError(
      f"'{run}' was trained by a method that gives images no probability: name a run of pixelcnn, "
      'pixelcnn_pp, image_gpt or prior.'
    )
  return found
