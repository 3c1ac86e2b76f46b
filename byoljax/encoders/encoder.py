"""`Encoder`: a trained network as one value, a pure function of images.

    embed = byoljax.load('runs/byol')
    h = embed(images)  # uint8 [b, S, S, 3] -> float32 [b, D]

Network, weights, preprocessing, and the place (tap) where it is read out: the encoder's own output
('embedding', h), an inner map ('stage1', averaged over its places), or what heads make of it
('projection', z; 'prediction', p; 'logits' of a classifier). Evaluations, exports, teachers and
warm starts all take this value. The same images give the same features, whatever batch they are in.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import numpy as np

from byoljax import own
from byoljax.data.augment import device
from byoljax.encoders.images import checked
from byoljax.models import MakeEncoder, encoder_factory
from byoljax.models.net import Net, stack
from byoljax.models.taps import pooled, truncate

PyTree = Any
EMBEDDING = 'embedding'


class Preprocessing(NamedTuple):
  """What is done to images before the network sees them.

  Attributes:
    mean: per channel, subtracted from images in [0, 1].
    std: per channel, divided by.
    image_size: side of the images that the network is evaluated on; others work, too.
    range: which numbers are black and white, as in `data.sources.pixels`; '' for images of 8 bits.
  """

  mean: tuple[float, ...]
  std: tuple[float, ...]
  image_size: int
  range: str = ''

  @property
  def channels(self) -> int:
    """C, the number of channels of an image."""
    return len(self.mean)

  @property
  def image(self) -> jax.ShapeDtypeStruct:
    """One image as exported programs take it: uint8 [S, S, C]; float32 of more than 8 bits."""
    shape = (self.image_size, self.image_size, self.channels)
    return jax.ShapeDtypeStruct(shape, np.float32 if self.range else np.uint8)

  def normalize(self, images: jax.Array) -> jax.Array:
    """uint8 [b, H, W, C], or float in [0, 1] -> float32 [b, H, W, C]."""
    return device.make_eval_transform(self.mean, self.std)(images)

  def example(self) -> jax.ShapeDtypeStruct:
    """The shape of two normalized images, for initializing a network."""
    side = self.image_size
    return jax.ShapeDtypeStruct((2, side, side, self.channels), np.float32)


@dataclasses.dataclass(frozen=True, eq=False)
class Encoder:
  """A network with its weights, its preprocessing and the place where it is read out.

  Attributes:
    net: the network, as far as the tap needs it: the part 'encoder', and heads behind it.
    params: {'encoder': parameters, ...} by role.
    bn: {'encoder': running statistics, ...} by role.
    preprocessing: see `Preprocessing`.
    tap: which of the network's outputs the features are.
    pool: how feature maps and a vision transformer's tokens become one vector, see
      `models.taps.pooled`; 'none' or None leaves them as they are.
    fields: the encoder's options, as in `config.encoder`; empty for a module of one's own.
  """

  net: Net = dataclasses.field(repr=False)
  params: PyTree = dataclasses.field(repr=False)
  bn: PyTree = dataclasses.field(repr=False)
  preprocessing: Preprocessing
  tap: str = EMBEDDING
  pool: str | None = 'cls'
  fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)

  def __call__(self, images: Any) -> jax.Array:
    """Features float32 [b, D]; without pooling [b, h, w, C] of a map, [b, n, D] of tokens.

    Args:
      images: uint8 [b, S, S, C], or float in [0, 1]; of any library, or a list of equally large
        images. For an encoder of images of more bits (`Preprocessing.range`) whole numbers are
        those of the files. Within a transformation of JAX, which does not know values, floats are
        taken to be in that range.

    Raises:
      ValueError: another shape or type, or floats that are no such images.
    """
    given = checked(images, self.preprocessing.channels, self.preprocessing.range)
    return self._compiled(self.params, self.bn, given)

  def apply(self, params: PyTree, bn: PyTree, images: jax.Array) -> jax.Array:
    """The same as a pure function of the weights, to be compiled, exported or differentiated."""
    return self.read(params, bn, self.preprocessing.normalize(images))

  def read(self, params: PyTree, bn: PyTree, normalized: jax.Array) -> jax.Array:
    """Features of images that are normalized already, as a pure function of the weights.

    In evaluation mode, without collectives.
    """
    return outputs(self.net, (self.tap,), self.pool, params, bn, normalized)[self.tap]

  @property
  def dim(self) -> int:
    """D, the number of features: the size of the last axis."""
    shape = jax.eval_shape(self.read, self.params, self.bn, self.preprocessing.example())
    return shape.shape[-1]

  @property
  def recorded(self) -> int:
    """What a run that was given this encoder remembers of it."""
    return self.dim

  @property
  def make_encoder(self) -> MakeEncoder:
    """(bn_axis, bn_groups=0) -> the encoder's module, for methods that train it further."""
    given = self.fields or self.net.parts[0][2]
    return encoder_factory(given, mean=self.preprocessing.mean, std=self.preprocessing.std)

  @functools.cached_property
  def _compiled(self) -> Any:
    return jax.jit(self.apply)

  def __getstate__(self) -> dict[str, Any]:
    """What is pickled: everything but what is compiled, and weights as NumPy's arrays."""
    kept = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
    return kept | jax.device_get({name: kept[name] for name in ('params', 'bn')})


def outputs(
  net: Net, taps: Sequence[str], pool: str | None, params: PyTree, bn: PyTree, images: jax.Array
) -> dict[str, jax.Array]:
  """{tap: float32 [b, D]} of normalized images in evaluation mode, pooled as `pool` says."""
  found, _ = net.apply(params, bn, images, train=False)
  return {tap: pooled(found[tap], pool) for tap in taps}


def network(encoder: Any, preprocessing: Preprocessing, input: str = 'rgb') -> Net:
  """An encoder as a network of one part, 'encoder'.

  The same options give the same value, so what was compiled for it is found again.

  Args:
    encoder: its options, as in `config.encoder`, or a module of one's own; see
      `models.encoder_factory`.
    preprocessing: of its images.
    input: what a module of one's own begins with; options say it themselves.

  Raises:
    ValueError: an unknown encoder or option.
  """
  given = None
  if isinstance(encoder, Mapping):
    if own.is_path(encoder['name']):
      given = _hashed(own.find('encoder', encoder['name']))  # It may have been defined anew.
    encoder = tuple(sorted(encoder.items()))
  return _network(encoder, preprocessing.mean, preprocessing.std, input, given)


def _hashed(thing: Any) -> Any:
  try:
    hash(thing)
  except TypeError:  # A field is an array, say.
    return id(thing)
  return thing


@functools.cache
def _network(
  encoder: Any, mean: tuple[float, ...], std: tuple[float, ...], input: str, defined: Any
) -> Net:
  del defined
  given = dict(encoder) if isinstance(encoder, tuple) else encoder
  module = encoder_factory(given, mean=mean, std=std, input=input)(None)
  return stack((('encoder', EMBEDDING, module),))


def pool_of(fields: Mapping[str, Any]) -> str:
  """How an encoder with these options pools its own tokens."""
  return fields.get('pool', 'cls')


def random_encoder(fields: Mapping[str, Any], preprocessing: Preprocessing, seed: int) -> Encoder:
  """The encoder with these options as it is before training; 'pixels' are the image itself.

  Raises:
    ValueError: an unknown encoder or option.
  """
  fields = dict(fields)
  net = network(fields, preprocessing)
  weights = net.init(jax.random.key(seed), preprocessing.example())
  return Encoder(net, *weights, preprocessing, pool=pool_of(fields), fields=fields)


def untrained(encoder: Encoder, seed: int) -> Encoder:
  """The same network before training, without heads, read out at its embedding."""
  net = truncate(encoder.net, (EMBEDDING,))
  params, bn = net.init(jax.random.key(seed), encoder.preprocessing.example())
  return dataclasses.replace(encoder, net=net, params=params, bn=bn, tap=EMBEDDING)
