"""What a trained method makes of images, where it has pictures to show: `Method.pictures`.

    painter = require_painter('runs/denoising')
    shown = painter.paint(painter.steps()[-1], painter.batch(source), source)  # 'image', ...

The whole method is built again from the run's record, with the parameters and the state of one of
its checkpoints. Pictures of the same images are made with the same key, so that those of several
checkpoints are of the same noise, or the same mask.
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
from byoljax.data import fields
from byoljax.data.augment import device, views
from byoljax.data.augment.views import ViewSpec
from byoljax.data.batches import pipeline
from byoljax.data.fields import Field
from byoljax.data.sources.source import Source
from byoljax.encoders import load, method_network
from byoljax.encoders.encoder import Preprocessing
from byoljax.method import Batch, Method, transformed
from byoljax.workdir import checkpoint, restore, run_dir

PyTree = Any
Shown = dict[str, np.ndarray]
"""Pictures of the same b images by name, float32 [b, H, W, 1 or 3] in [0, 1]."""


@dataclasses.dataclass(frozen=True)
class Painter:
  """A run's method, which makes pictures of images at any of its checkpoints.

  Attributes:
    run: the run's directory.
    method: its method, on one device.
    preprocessing: of its images.
    specs: of its views.
    fields: the further fields that the run was given. Of a source without them, such as someone's
      photographs, the method gets none.
  """

  run: pathlib.Path
  method: Method
  preprocessing: Preprocessing
  specs: tuple[ViewSpec, ...]
  fields: tuple[Field, ...] = ()

  def steps(self) -> list[int]:
    """Of the checkpoints that are there, ascending."""
    return checkpoint.finished_steps(self.run)

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
    return self.show(*self._stored(step, source), batch)

  def show(self, params: PyTree, method_state: PyTree, batch: Batch) -> Shown:
    """The pictures of a batch with these parameters and this state, in the method's order."""
    made = self._compiled(params, method_state, batch, _key())
    # Compiled functions give dicts back in the order of the names.
    return {name: np.asarray(made[name]) for name in self._order(params, method_state, batch)}

  def _stored(self, step: int, source: Source) -> tuple[PyTree, PyTree]:
    template = jax.eval_shape(lambda: self._init(source))
    wanted = {
      name: restore.by_name(tree)
      for name, tree in zip(('params', 'method_state'), template, strict=True)
    }
    paths = [(name,) for name, leaves in wanted.items() if leaves]
    leaves: list[Any] = []
    with user_errors('config.pretrained'):
      found = checkpoint.restore_subtrees(self.run / 'checkpoints' / str(step), paths)
      for path in paths:
        stored, names = restore.by_name(found[path]), wanted[path[0]]
        # What learned beside the method, such as an online probe, is left out.
        own = {name: stored[name] for name in names if name in stored}
        checkpoint.require_equal_shapes(own, names)
        leaves += [jnp.asarray(own[name]) for name in names]
    return jax.tree.unflatten(jax.tree.structure(template), leaves)

  def _init(self, source: Source) -> tuple[PyTree, PyTree]:
    source = self._as_in_training(source)
    shown = {spec.field for spec in self.specs}
    names = [field.name for field in self.fields if field.name not in shown]
    augment = device.make_augment(
      self.specs,
      seed=0,
      mean=self.preprocessing.mean,
      std=self.preprocessing.std,
      fields=[source.field(name) for name in names],
    )
    shapes = jax.eval_shape(augment, pipeline.batch_shapes(source, self.specs, 2, names))
    example = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    seen = transformed(self.method, example, _key(), jnp.zeros((), jnp.int32))
    return self.method.init(_key(), seen)

  def _as_in_training(self, source: Source) -> Source:
    """The source with the fields that it lacks, as far as their shapes go: none can be read."""
    there = {field.name for field in source.fields}
    channels = {'image': source.channels, 'map': 1, 'mask': 1}
    missing = [
      dataclasses.replace(
        field,
        channels=field.channels or channels.get(field.kind, 0),
        dtype='uint8' if field.kind in ('image', 'mask') else 'float32',
      )
      for field in self.fields
      if field.name not in there
    ]
    return dataclasses.replace(source, fields=(*source.fields, *missing))

  @functools.cached_property
  def _compiled(self) -> Callable[..., dict[str, jax.Array]]:
    assert self.method.pictures is not None
    return jax.jit(self.method.pictures)

  def _order(self, params: PyTree, method_state: PyTree, batch: Batch) -> list[str]:
    names: list[str] = []

    def look(params: PyTree, method_state: PyTree, batch: Batch) -> None:
      assert self.method.pictures is not None
      names.extend(self.method.pictures(params, method_state, batch, _key()))

    jax.eval_shape(look, params, method_state, batch)
    return names


def painter(run: pathlib.Path) -> Painter | None:
  """Of a run; None where its method shows nothing, or is not known.

  Raises:
    ConfigError: no run there, or one whose method cannot be built.
  """
  config = run_dir.run_config(run)
  method = method_network.method(config, run)
  if method is None or method.pictures is None:
    return None
  with user_errors('config.views'):
    specs = views.specs_of(config.views.to_dict())
    further = fields.parsed(config.data.fields)
  return Painter(run, method, load.preprocessing_of(config), specs, further)


def require_painter(run: pathlib.Path) -> Painter:
  """`painter`, or a ConfigError that says that there is nothing to show."""
  found = painter(run)
  if found is None:
    raise ConfigError(
      f"'{run}' was trained by a method that gives no pictures back: name a run of one that "
      'reconstructs, such as denoising_autoencoder.'
    )
  return found


def _key() -> jax.Array:
  return jax.random.fold_in(jax.random.key(0), streams.PICTURES)
