"""What a trained method makes of images, where it has pictures to show: `Method.pictures`.

    painter = require_painter('runs/denoising')
    shown = painter.paint(painter.steps()[-1], painter.batch(source), source)  # 'image', ...

Pictures of the same images are made with the same key, so that those of several checkpoints are of
the same noise, or the same mask.
"""

from collections.abc import Callable
import dataclasses
import functools
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from byoljax.config import ConfigError, user_errors
from byoljax.data.batches import pipeline
from byoljax.data.sources.source import Source
from byoljax.encoders.stored_method import StoredMethod, key_of_pictures
from byoljax.method import Batch

PyTree = Any
Shown = dict[str, np.ndarray]
"""Pictures of the same b images by name, float32 [b, H, W, 1 or 3] in [0, 1]."""


@dataclasses.dataclass(frozen=True)
class Painter(StoredMethod):
  """A run's method, which makes pictures of images at any of its checkpoints."""

  def batch(self, source: Source) -> Batch:
    """All images of a source, as `Method.pictures` takes them, at the size of evaluations.

    Images that cannot be read are left out.

    Raises:
      ConfigError: none can be read.
    """
    there = {field.name: field.kind for field in source.fields}
    names = [field.name for field in self.fields if field.name in there]
    with user_errors():
      (batch,) = pipeline.eval_batches(
        source,
        image_size=self.preprocessing.image_size,
        batch_size=source.size,
        fields=names,
      )
    kept = {name: jnp.asarray(value[batch['valid']]) for name, value in batch.items()}
    count = len(kept['index'])
    if not count:
      raise ConfigError(f'no image of {source.name} can be read.')
    images = {
      name: self.preprocessing.normalize(kept[name])
      for name in ('image', *names)
      if there[name] == 'image'
    }
    return {
      'views': (images['image'],),
      'index': kept['index'],
      'epoch': jnp.zeros(count, jnp.int32),
      'label': kept['label'],
    } | {name: (images.get(name, kept[name]),) for name in names}

  def paint(self, step: int, batch: Batch, source: Source) -> Shown:
    """The pictures of a batch at a checkpoint, in the method's order.

    Args:
      step: of the checkpoint.
      batch: of `batch`.
      source: where it is from; further fields have the shapes that the method was made for.

    Raises:
      ConfigError: the checkpoint does not fit the run's configuration, or is damaged.
    """
    return self.show(*self.stored(step, source), batch)

  def show(self, params: PyTree, method_state: PyTree, batch: Batch) -> Shown:
    """The pictures of a batch with these parameters and this state, in the method's order."""
    made = self._compiled(params, method_state, batch, key_of_pictures())
    # Compiled functions give dicts back in the order of the names.
    return {name: np.asarray(made[name]) for name in self._order(params, method_state, batch)}

  @functools.cached_property
  def _compiled(self) -> Callable[..., dict[str, jax.Array]]:
    assert self.method.pictures is not None
    return jax.jit(self.method.pictures)

  def _order(self, params: PyTree, method_state: PyTree, batch: Batch) -> list[str]:
    names: list[str] = []

    def look(params: PyTree, method_state: PyTree, batch: Batch) -> None:
      assert self.method.pictures is not None
      names.extend(self.method.pictures(params, method_state, batch, key_of_pictures()))

    jax.eval_shape(look, params, method_state, batch)
    return names


def painter(run: pathlib.Path) -> Painter | None:
  """Of a run; None where its method shows nothing, or is not known.

  Raises:
    ConfigError: no run there, or one whose method cannot be built.
  """
  found = Painter.of(run)
  return found if found is not None and found.method.pictures is not None else None


def require_painter(run: pathlib.Path) -> Painter:
  """`painter`, or a ConfigError that says that there is nothing to show."""
  found = painter(run)
  if found is None:
    raise ConfigError(
      f"'{run}' was trained by a method that gives no pictures back: name a run of one that "
      'reconstructs, such as denoising_autoencoder.'
    )
  return found
