"""Split-brain autoencoder: one half of the channels out of the other (Zhang et al. 2017).

Split-brain autoencoders: unsupervised learning by cross-channel prediction, arXiv 1611.09842. The
encoder is two networks of half the width that share nothing (`models.halves`, by `encoder.input`):

    lab_halves   the lightness says the color ab, and the color says the lightness
    rgbd_halves  the image says its depth, and the depth says lightness and color

The loss is the sum of both; neither gradient reaches the other half. Numbers are classes, as in the
paper: bins of the ab plane with soft encoding (`ops.color_bins`), equal intervals of lightness and
of depth; 'regression' predicts them as numbers in [-1, 1], the paper's other form.

The paper leaves open how many intervals of lightness there are: 100, as in later implementations,
and 32 of depth are ours, as is that depth, too, says color. Colors are not weighted by how rare
they are. What is missing in a depth map, not a finite number, is not asked for, and seen as the
middle of the range.
"""

from collections.abc import Callable
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from byoljax.losses import colorization as losses
from byoljax.method import (
  Aux,
  Batch,
  MakeEncoder,
  Method,
  Setting,
  default_groups,
  evaluation_outputs,
  keep,
)
from byoljax.methods.checks import only_view
from byoljax.methods.plain import plain_init
from byoljax.methods.reconstruction import autoencoder, colors
from byoljax.models.decoders import feature_map, fitted
from byoljax.models.halves import Halves
from byoljax.models.inputs import HALVES
from byoljax.models.net import Net, Statistics, stack
from byoljax.models.place_heads import HalfOf
from byoljax.ops import color_bins

PyTree = Any
# What each half is asked for.
ASKED = {
  'lab_halves': (('ab',), ('lightness',)),
  'rgbd_halves': (('depth',), ('lightness', 'ab')),
}
DEPTH = 'depth'


class Target(NamedTuple):
  """Something that is predicted at every place.

  Attributes:
    outputs: how many outputs it takes.
    loss: (outputs [b,h,w,n], truth [b,h,w,C]) -> float32 scalar.
    decoded: (outputs) -> [b,h,w,C], the prediction.
  """

  outputs: int
  loss: Callable[[jax.Array, jax.Array], jax.Array]
  decoded: Callable[[jax.Array], jax.Array]


def color_classes(centers: np.ndarray, neighbors: int, sigma: float, temperature: float) -> Target:
  """Colors ab as distributions over bins; arguments as for `ops.color_bins`."""

  def loss(outputs: jax.Array, truth: jax.Array) -> jax.Array:
    return losses.soft_cross_entropy(outputs, *color_bins.encode(truth, centers, neighbors, sigma))

  decode = functools.partial(color_bins.annealed_mean, bins=centers, temperature=temperature)
  return Target(len(centers), loss, decode)


def intervals(low: float, high: float, count: int, temperature: float) -> Target:
  """A number in [low, high] as one of `count` equal intervals; numbers outside are at the ends."""
  width = (high - low) / count
  middles = (low + width * (np.arange(count) + 0.5)).astype(np.float32)[:, None]

  def loss(outputs: jax.Array, truth: jax.Array) -> jax.Array:
    known = jnp.isfinite(truth)
    place = jnp.floor((jnp.where(known, truth, low) - low) / width).astype(jnp.int32)
    which = jnp.clip(place, 0, count - 1)
    weights = known[..., 0].astype(jnp.float32)
    return losses.soft_cross_entropy(outputs, which, jnp.ones(which.shape), weights)

  decode = functools.partial(color_bins.annealed_mean, bins=middles, temperature=temperature)
  return Target(count, loss, decode)


def numbers(low: float, high: float, channels: int = 1) -> Target:
  """Numbers in [low, high] as such: half the squared error of what they are in [-1, 1]."""
  middle, reach = (low + high) / 2, (high - low) / 2

  def loss(outputs: jax.Array, truth: jax.Array) -> jax.Array:
    known = jnp.isfinite(truth)
    scaled = (jnp.where(known, truth, middle) - middle) / reach
    return losses.squared_error(outputs, scaled, known[..., 0].astype(jnp.float32))

  return Target(channels, loss, lambda outputs: middle + reach * outputs)


def split_brain(
  net: Net,
  setting: Setting,
  targets: dict[str, Target],
  kind: str,
  depth_range: tuple[float, float],
) -> Method:
  """A split-brain autoencoder over a network; `build` makes it.

  Args:
    net: outputs 'embedding', 'first' and 'second', what each half says of every place.
    setting: the run.
    targets: by name.
    kind: a key of `ASKED`.
    depth_range: the depths that are seen as -1 and 1.
  """
  with_depth = kind == 'rgbd_halves'
  low, high = depth_range

  def with_its_depth(view: jax.Array, depth: jax.Array) -> jax.Array:
    scaled = (2 * depth.astype(jnp.float32) - low - high) / (high - low)
    return jnp.concatenate([view, jnp.where(jnp.isfinite(scaled), scaled, 0.0)], axis=-1)

  def truth_of(view: jax.Array, depth: jax.Array | None) -> dict[str, jax.Array]:
    lab = colors.lab_of(view[..., :3], setting)
    truth = {'lightness': lab[..., :1], 'ab': lab[..., 1:]}
    return truth if depth is None else truth | {DEPTH: depth}

  def depth_of(batch: Batch) -> jax.Array | None:
    if not with_depth:
      return None
    if DEPTH not in batch:
      raise ValueError(
        "encoder.input='rgbd_halves' asks for the field 'depth' of the data: set "
        "data.fields=('depth:map',) with a source that has it, or take 'lab_halves'."
      )
    return batch[DEPTH][0]

  def transform(batch: Batch, key: jax.Array, step: jax.Array) -> Batch:
    del key, step
    view, depth = only_view(batch), depth_of(batch)
    return batch if depth is None else batch | {'views': (with_its_depth(view, depth),)}

  def said(made: dict[str, jax.Array]) -> dict[tuple[str, str], jax.Array]:
    """The outputs of each half by what it was asked for."""
    found = {}
    for half, names in zip(('first', 'second'), ASKED[kind], strict=True):
      ends = np.cumsum([targets[name].outputs for name in names])[:-1]
      parts = jnp.split(made[half], ends, axis=-1)
      found |= {(half, name): part for name, part in zip(names, parts, strict=True)}
    return found

  def objective(
    params: PyTree, state: Statistics, batch: Batch, key: jax.Array, step: jax.Array
  ) -> tuple[jax.Array, Aux]:
    del key, step
    view = batch['views'][0]
    made, bn = net.apply(params, state.bn, view, train=True)
    truth = truth_of(view, depth_of(batch))
    terms = {
      f'loss/{name}': targets[name].loss(outputs, colors.at_places(truth[name], outputs))
      for (_, name), outputs in said(made).items()
    }
    return sum(terms.values(), jnp.zeros(())), Aux(Statistics(bn), terms, made['embedding'])

  def pictures(
    params: PyTree, state: Statistics, batch: Batch, key: jax.Array
  ) -> dict[str, jax.Array]:
    del key
    view, depth = batch['views'][0], depth_of(batch)
    seen = view if depth is None else with_its_depth(view, depth)
    made, _ = net.apply(params, state.bn, seen, train=False)
    found = {key: targets[key[1]].decoded(outputs) for key, outputs in said(made).items()}
    lab = truth_of(view, depth)
    image = autoencoder.picture(view, setting)
    flat, gray = jnp.full_like(lab['lightness'], 60.0), jnp.zeros_like(lab['ab'])
    if depth is None:
      return {
        'image': image,
        'input': colors.painted(lab['lightness'], gray),
        'output': colors.painted(lab['lightness'], found['first', 'ab']),
        'color': colors.painted(flat, lab['ab']),
        'from_color': colors.painted(fitted(found['second', 'lightness'], flat), lab['ab']),
      }

    def as_gray(depth: jax.Array) -> jax.Array:
      return autoencoder.shown((depth - low) / (high - low))

    colored = [fitted(found['second', name], flat) for name in ('lightness', 'ab')]
    return {
      'image': image,
      'target': as_gray(jnp.where(jnp.isfinite(depth), depth, low)),
      'output': as_gray(fitted(found['first', DEPTH], depth)),
      'from_depth': colors.painted(*colored),
    }

  return Method(
    plain_init(net),
    objective,
    keep,
    evaluation_outputs(net, 'embedding'),
    default_groups,
    net=net,
    transform=transform,
    pictures=pictures,
  )


def build(
  make_encoder: MakeEncoder,
  setting: Setting,
  *,
  loss: str = 'classification',
  grid: float = color_bins.GRID,
  bins: int = color_bins.COUNT,
  neighbors: int = color_bins.NEIGHBORS,
  sigma: float = color_bins.SIGMA,
  lightness_bins: int = 100,
  depth_bins: int = 32,
  depth_range: tuple[float, float] = (0.0, 1.0),
  temperature: float = color_bins.TEMPERATURE,
  tap: str = '',
  stride: int = 4,
  decoder_width: int = 64,
) -> Method:
  """Builds a split-brain autoencoder from an encoder factory and its configuration.

  Args:
    make_encoder: called with the mapped axis: statistics are synchronized over all devices. Its
      encoder must be split: `encoder.input` 'lab_halves', or 'rgbd_halves' with a field 'depth'.
    setting: the run.
    loss: 'classification' or 'regression'.
    grid: side of the bins of colors in units of CIE Lab.
    bins: how many; see `ops.color_bins.ab_bins`.
    neighbors: bins of a color's soft encoding; 1 is the nearest alone.
    sigma: of that encoding.
    lightness_bins: intervals of [0, 100].
    depth_bins: intervals of `depth_range`.
    depth_range: (least, greatest) depth; what is beyond is in the last interval.
    temperature: of the annealed mean that pictures show.
    tap: which of the encoder's maps the decoders read; '' for the last one.
    stride: pixels from one prediction to the next, a power of two; a finer map keeps its own.
    decoder_width: channels of the decoders' last stage, where the map is coarser than that.

  Raises:
    ValueError: an argument out of range, or an encoder that is not split or has no map.
  """
  colors.check(setting, loss)
  ascending = len(depth_range) == 2 and depth_range[0] < depth_range[1]
  if lightness_bins < 2 or depth_bins < 2 or not ascending:
    raise ValueError(
      f'lightness_bins={lightness_bins} and depth_bins={depth_bins} must be at least 2, and '
      f'depth_range={tuple(depth_range)} two ascending numbers.'
    )
  low, high = depth_range
  centers = color_bins.ab_bins(grid, bins)
  color_bins.check(neighbors, sigma, temperature, len(centers))
  encoder: Any = make_encoder(setting.axis)
  if not isinstance(encoder, Halves):
    raise ValueError(
      f'this encoder is not split in two: set encoder.input to one of {", ".join(HALVES)}.'
    )
  if loss == 'regression':
    scale = colors.AB_SCALE
    targets = {
      'ab': numbers(-scale, scale, 2), 'lightness': numbers(0, 100), DEPTH: numbers(low, high),
    }  # fmt: skip
  else:
    targets = {
      'ab': color_classes(centers, neighbors, sigma, temperature),
      'lightness': intervals(0, 100, lightness_bins, temperature),
      DEPTH: intervals(low, high, depth_bins, temperature),
    }
  source = feature_map(encoder, len(setting.mean), tap)
  parts: list[Any] = [('encoder', 'embedding', encoder)]
  for half, (name, names) in enumerate(zip(('first', 'second'), ASKED[encoder.kind], strict=True)):
    outputs = sum(targets[each].outputs for each in names)
    decoder = colors.decoder(source, setting, outputs=outputs, stride=stride, width=decoder_width)
    parts.append((f'{name}_decoder', name, HalfOf(half, decoder)))
  reads = {role: source.tap for role, _, _ in parts[1:]}
  return split_brain(stack(parts, reads=reads), setting, targets, encoder.kind, (low, high))
