"""The method of a finished run, built again whole, with what any of its checkpoints holds.

Where an encoder alone is not enough: what a method makes of images (`encoders.pictures`), and new
images (`encoders.samples`).
"""

import dataclasses
import pathlib
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np

from byoljax import streams
from byoljax.config import Config, user_errors
from byoljax.data import fields
from byoljax.data.augment import device, views
from byoljax.data.augment.views import ViewSpec
from byoljax.data.batches import pipeline
from byoljax.data.fields import Field
from byoljax.data.sources.source import Source
from byoljax.encoders import load, method_network
from byoljax.encoders.encoder import Preprocessing
from byoljax.method import Method, transformed
from byoljax.workdir import checkpoint, restore, run_dir

PyTree = Any


@dataclasses.dataclass(frozen=True)
class StoredMethod:
  """A run's method, whose parameters and state are read from its checkpoints.

  Attributes:
    run: the run's directory.
    config: its configuration.
    method: its method, on one device.
    preprocessing: of its images.
    specs: of its views.
    fields: the further fields that the run was given. Of a source without them, such as someone's
      photographs, the method gets none.
  """

  run: pathlib.Path
  config: Config
  method: Method
  preprocessing: Preprocessing
  specs: tuple[ViewSpec, ...]
  fields: tuple[Field, ...] = ()

  @classmethod
  def of(cls, run: pathlib.Path) -> Self | None:
    """Of a run; None where its method is not known, as with weights of another library.

    Raises:
      ConfigError: no run there, or one whose method cannot be built.
    """
    config = run_dir.run_config(run)
    method = method_network.method(config, run)
    if method is None:
      return None
    with user_errors('config.views'):
      specs = views.specs_of(config.views.to_dict())
      further = fields.parsed(config.data.fields)
    return cls(run, config, method, load.preprocessing_of(config), specs, further)

  def as_pictures(self, images: np.ndarray) -> np.ndarray:
    """What images [n, H, W, C] in [0, 1] look like, [n, h, w, 1 or 3]: see `Method.show`."""
    return images if self.method.show is None else self.method.show(images)

  def steps(self) -> list[int]:
    """Of the checkpoints that are there, ascending."""
    return checkpoint.finished_steps(self.run)

  def stored(self, step: int, source: Source) -> tuple[PyTree, PyTree]:
    """Parameters and method state of a checkpoint.

    Args:
      step: of the checkpoint.
      source: images of the shapes that the method was made for; none is read.

    Raises:
      ConfigError: the checkpoint does not fit the run's configuration, or is damaged.
    """
    template = jax.eval_shape(lambda: self._init(source))
    wanted = {
      name: restore.by_name(tree)
      for name, tree in zip(('params', 'method_state'), template, strict=True)
    }
    paths = [(name,) for name, leaves in wanted.items() if leaves]
    leaves: list[Any] = []
    with user_errors():
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
    seen = transformed(self.method, example, key_of_pictures(), jnp.zeros((), jnp.int32))
    return self.method.init(key_of_pictures(), seen)

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


def key_of_pictures() -> jax.Array:
  """The key that pictures are made with: the same for every checkpoint."""
  return jax.random.fold_in(jax.random.key(0), streams.PICTURES)
