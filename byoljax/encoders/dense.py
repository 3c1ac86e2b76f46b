"""`DenseModel`: a trained network with an output at every pixel, as one value and as a directory.

    model = dense.load('runs/masks/online-finetuned')
    classes = model.predict(images)  # uint8 [b, H, W, 3] -> int32 [b, H, W]; of depth float32

Network, weights and preprocessing, what the numbers mean, and where all that is from. The directory
holds everything, so it can be copied to another machine, and it outlives the checkpoint:

    dense.json           kind, classes, head, protocol, scores, the encoder's options
    weights-<mark>.npz   arrays of the network, NumPy only
"""

from collections.abc import Callable, Mapping
import dataclasses
import functools
import math
import os
import pathlib
from typing import Any

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from byoljax.config import ConfigError, expanded, user_errors
from byoljax.encoders import encoder as encoder_lib
from byoljax.encoders import stored_arrays
from byoljax.encoders.encoder import Preprocessing
from byoljax.encoders.images import checked
from byoljax.methods.supervised import dense as dense_methods
from byoljax.methods.supervised.dense import HeadOptions
from byoljax.models.dense_heads import resized
from byoljax.models.net import Net
from byoljax.version import versions
from byoljax.workdir import stored_config

PyTree = Any
FILE, FOLDER = 'dense.json', 'dense'
SEGMENTATION, DEPTH = 'segmentation', 'depth'
_FORMAT = 1


@dataclasses.dataclass(frozen=True)
class Design:
  """What a network is made of, apart from its weights; by value.

  Attributes:
    encoder: its options, as in `config.encoder`, sorted pairs; or a module of one's own.
    preprocessing: of its images; `image_size` is the side of the crops that it was trained on.
    options: of the head.
    channels: of the output.
    window: side of the windows, in pixels, whose outputs are averaged; 0: images go in whole.
    multiple: the sides that the network sees are filled up to multiples of so many pixels.
    reduce: images are made smaller by this factor for the network, and outputs as large again.
  """

  encoder: Any
  preprocessing: Preprocessing
  options: HeadOptions
  channels: int
  window: int = 0
  multiple: int = 32
  reduce: int = 1

  @functools.cached_property
  def net(self) -> Net:
    """The network; equal designs share it, and what was compiled for it."""
    return _net(self.encoder, self.preprocessing, self.options, self.channels)

  @property
  def sides(self) -> tuple[int, int]:
    """(multiple, least) of the sides that images are filled up to: patches must divide them."""
    patch = getattr(self.net.parts[0][2], 'patch', 1)
    return self.reduce * math.lcm(self.multiple, patch), self.reduce * (self.window or 1)

  def outputs(self, params: PyTree, bn: PyTree, images: jax.Array, inside: jax.Array) -> jax.Array:
    """Outputs float32 [b, H, W, channels] of filled-up images, a pure function of the weights.

    In evaluation mode, without collectives; of each image by itself. Windows follow each other by
    at most two thirds of their side and are evenly spread.

    Args:
      params: by role.
      bn: running statistics by role.
      images: uint8 [b, H, W, C], or float in [0, 1].
      inside: bool [b, H, W], where the image is; the rest becomes the mean, which is 0.
    """
    x = self.preprocessing.normalize(images) * inside[..., None]
    size = x.shape[1:3]
    if self.reduce > 1:
      small = tuple(side // self.reduce for side in size)
      # The kernel of the crops that it was trained on.
      x = jax.image.resize(x, (x.shape[0], *small, x.shape[3]), 'cubic', antialias=False)

    def of(x: jax.Array) -> jax.Array:
      found, _ = self.net.apply(params, bn, x, train=False, inputs={'head': {'image': x}})
      return found[dense_methods.OUTPUT]

    made = _in_windows(of, x, self.window, self.channels) if self.window else of(x)
    return resized(made, size)


def _in_windows(
  of: Callable[[jax.Array], jax.Array], x: jax.Array, side: int, channels: int
) -> jax.Array:
  """The mean over square windows of what a network makes of each."""
  size = x.shape[1:3]
  places = np.array(np.meshgrid(*(_starts(extent, side) for extent in size), indexing='ij'))
  places = places.reshape(2, -1).T
  count = np.zeros((1, *size, 1), np.float32)
  for top, left in places:
    count[:, top : top + side, left : left + side] += 1

  def add(total: jax.Array, place: jax.Array) -> tuple[jax.Array, None]:
    zero = jnp.zeros((), place.dtype)
    start = (zero, place[0], place[1], zero)
    window = lax.dynamic_slice(x, start, (x.shape[0], side, side, x.shape[3]))
    seen = lax.dynamic_slice(total, start, (x.shape[0], side, side, channels))
    return lax.dynamic_update_slice(total, seen + of(window), start), None

  total = jnp.zeros((*x.shape[:3], channels), jnp.float32)
  total, _ = lax.scan(add, total, jnp.asarray(places, jnp.int32))
  return total / count


def _starts(extent: int, side: int) -> np.ndarray:
  """Where windows begin along one axis."""
  count = 1 + max(0, math.ceil((extent - side) / (side * 2 / 3)))
  return np.round(np.linspace(0, extent - side, count)).astype(int)


@functools.cache
def _net(encoder: Any, preprocessing: Preprocessing, options: HeadOptions, channels: int) -> Net:
  given = dict(encoder) if isinstance(encoder, tuple) else encoder
  module = encoder_lib.network(given, preprocessing).parts[0][2]
  return dense_methods.network(
    module, options, channels, image_channels=preprocessing.channels, dtype=_dtype(given)
  )


def _dtype(fields: Any) -> str:
  return fields.get('dtype', 'float32') if isinstance(fields, Mapping) else 'float32'


@dataclasses.dataclass(frozen=True, eq=False)
class DenseModel:
  """A trained network with an output at every pixel; it can be pickled.

  Attributes:
    kind: 'segmentation' or 'depth'.
    design: see `Design`.
    params: parameters by role.
    bn: running statistics by role.
    classes: K names, in the order of the scores; () of depth.
    protocol: how it was made and what it scored, for JSON.
  """

  kind: str
  design: Design
  params: PyTree = dataclasses.field(repr=False)
  bn: PyTree = dataclasses.field(repr=False)
  classes: tuple[str, ...]
  protocol: Mapping[str, Any]

  def predict(self, images: Any) -> np.ndarray:
    """Classes int32 [b, H, W], or depths float32 [b, H, W], of images of one size.

    Args:
      images: uint8 [b, H, W, C], or float in [0, 1]; see `Encoder.__call__`.

    Raises:
      ValueError: another shape or type.
    """
    shape = self.design.preprocessing
    given = np.asarray(checked(images, shape.channels, shape.range))
    multiple, least = self.design.sides
    height, width = given.shape[1:3]
    sides = [-(-max(side, least) // multiple) * multiple for side in (height, width)]
    space = [(0, 0), *((0, new - old) for new, old in zip(sides, given.shape[1:3], strict=True))]
    inside = np.pad(np.ones(given.shape[:3], bool), space)
    answer = answers(self.design, self.params, self.bn, np.pad(given, [*space, (0, 0)]), inside)
    return np.asarray(answer)[:, :height, :width]


@functools.partial(jax.jit, static_argnums=0)
def answers(
  design: Design, params: PyTree, bn: PyTree, images: jax.Array, inside: jax.Array
) -> jax.Array:
  """The largest score's class, int32 [b, H, W]; of a single channel its number, float32.

  Arguments as for `Design.outputs`.
  """
  made = design.outputs(params, bn, images, inside)
  return made[..., 0] if design.channels == 1 else jnp.argmax(made, axis=-1).astype(jnp.int32)


def save(model: DenseModel, path: str | os.PathLike[str]) -> pathlib.Path:
  """Writes a model's directory, or replaces the one that is there.

  Raises:
    ConfigError: its encoder is a module of one's own, which no file says how to make again.
    OSError: it cannot be written.
  """
  home, design = pathlib.Path(path), model.design
  if not isinstance(design.encoder, tuple):
    raise ConfigError('an encoder of your own cannot be stored with a head: keep it in memory.')
  about = {
    'format': _FORMAT,
    'kind': model.kind,
    'classes': list(model.classes),
    'encoder': dict(design.encoder),
    'head': design.options._asdict(),
    'channels': design.channels,
    'window': design.window,
    'multiple': design.multiple,
    'reduce': design.reduce,
    'preprocessing': design.preprocessing._asdict(),
    'protocol': dict(model.protocol),
    'versions': versions(),
  }
  stored_arrays.write(home, FILE, about, {'params': model.params, 'bn': model.bn})
  return home


def load(path: str | os.PathLike[str]) -> DenseModel:
  """Reads a model: its directory, that of the evaluation that left it, or a run's.

  Raises:
    ConfigError: there is none, or it is damaged.
  """
  home = find(path)
  with stored_arrays.opened(home, FILE, _FORMAT, 'model') as (about, arrays):
    design = Design(
      tuple(sorted(stored_config.stored_encoder(about['encoder']).items())),
      Preprocessing(**stored_arrays.tuples(about['preprocessing'])),
      HeadOptions(*(stored_arrays.tuples(about['head'])[name] for name in HeadOptions._fields)),
      int(about['channels']),
      int(about['window']),
      int(about['multiple']),
      int(about['reduce']),
    )
    with user_errors(f"the network of '{home}'"):
      net = design.net
    params, bn = stored_arrays.of_roles(arrays, net)
    kind, classes = about['kind'], tuple(about['classes'])
    return DenseModel(kind, design, params, bn, classes, about['protocol'])


def find(path: str | os.PathLike[str]) -> pathlib.Path:
  """The directory of a model; of several that evaluations left in a run, the newest.

  Args:
    path: the directory itself, of an evaluation, or of a run.

  Raises:
    ConfigError: there is none.
  """
  return stored_arrays.find(
    path,
    FILE,
    every,
    what='model of masks or depth',
    made_by='`byoljax segment` and `byoljax depth` make one from a run and images with masks or '
    'depths.',
  )


def is_one(path: str | os.PathLike[str]) -> bool:
  """Whether `find` would find a model."""
  home = expanded(path)
  return (home / FILE).is_file() or bool(every(home))


def every(home: pathlib.Path) -> list[pathlib.Path]:
  """All models of an evaluation or a run: fine-tuned before frozen, those from scratch last."""

  def rank(name: str) -> tuple[bool, bool]:
    return name.startswith('random'), name.endswith('frozen')

  return stored_arrays.every(home, FOLDER, FILE, rank)
