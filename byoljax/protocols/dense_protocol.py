"""How a network with an output at every pixel is trained, and what it is trained on."""

from collections.abc import Callable, Mapping
import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from byoljax.config import ConfigError, choose
from byoljax.encoders.dense import DEPTH, SEGMENTATION
from byoljax.evals import streaming
from byoljax.evals.headlines import HEADLINES
from byoljax.evals.streaming import Metric
from byoljax.methods.checks import BATCH_NORMS
from byoljax.methods.supervised.dense import HeadOptions
from byoljax.models.dense_heads import HEADS
from byoljax.protocols.extraction import EvalData

FROZEN, FINETUNED = 'frozen', 'finetuned'
MODE_TITLES = {FROZEN: 'frozen', FINETUNED: 'fine-tuned'}
MODES = tuple(MODE_TITLES)
EVALUATIONS = ('whole', 'windows')


class Kind(NamedTuple):
  """What is predicted at every pixel.

  Attributes:
    name: `SEGMENTATION` or `DEPTH`.
    headline: the result that chooses among settings, a key of `evals.headlines.HEADLINES`.
    results: every result -> (title, format).
    metric: (channels, mapped axis or None) -> the metric of outputs [b, H, W, channels] and truths
      [b, H, W], as the field stores them.
  """

  name: str
  headline: str
  results: Mapping[str, tuple[str, str]]
  metric: Callable[[int, str | None], Metric]

  @property
  def sign(self) -> int:
    """1 where a larger headline is better, -1 where a smaller one is."""
    return HEADLINES[self.headline].sign


def _classes(channels: int, axis: str | None) -> Metric:
  return streaming.mean_iou(channels, axis=axis)


def _depths(channels: int, axis: str | None) -> Metric:
  del channels
  metric = streaming.depth_errors(axis=axis)

  def update(state: Any, outputs: jax.Array, truth: jax.Array, mask: jax.Array) -> Any:
    return metric.update(state, outputs[..., 0], truth.astype(jnp.float32), mask)

  return metric._replace(update=update)


KINDS = {
  SEGMENTATION: Kind(
    SEGMENTATION,
    'mean_iou',
    {'mean_iou': HEADLINES['mean_iou'][:2], 'pixel_accuracy': ('pixel accuracy', '{:.1%}')},
    _classes,
  ),
  DEPTH: Kind(
    DEPTH,
    'rms',
    {
      'rms': HEADLINES['rms'][:2],
      'rel': ('rel', '{:.4f}'),
      'within_1.25': ('< 1.25', '{:.1%}'),
      'within_1.25^2': ('< 1.25²', '{:.1%}'),
      'within_1.25^3': ('< 1.25³', '{:.1%}'),
    },
    _depths,
  ),
}


class DenseData(NamedTuple):
  """Images with a truth at every pixel.

  Attributes:
    data: the images, and how they are read; `image_size` is the side of the training crops.
    field: that holds the truth.
    classes: names of the classes in the order of their numbers; () of depth.
    mean_depth: of training pixels whose depth is known; 0.0 of classes.
  """

  data: EvalData
  field: str
  classes: tuple[str, ...] = ()
  mean_depth: float = 0.0

  @property
  def channels(self) -> int:
    """Of the output."""
    return len(self.classes) or 1


@dataclasses.dataclass(frozen=True)
class DenseProtocol:
  """How a head, and perhaps the encoder under it, is trained; `configs.dense` has values.

  Attributes:
    protocol: what to call it in results.
    length: a duration.
    batch_size: global; at most the number of images is used.
    optim: fields as in `configs.base.optimizer`.
    head_lr: learning rate of the head, as a multiple of the encoder's.
    sweep: rates to try on held-out training images; () for the optimizer's own.
    held_out: share of the training images that chooses among them.
    batch_norm: of an encoder that is trained, 'batch' or 'frozen'.
    head: one of `models.dense_heads.HEADS`.
    taps: maps that it reads; () for its own.
    width: channels of the hidden layers of 'fcn'.
    up_channels: of the blocks of 'up'.
    output_stride: of a ResNet's last map, in pixels; 0 as it was trained.
    zoom: smallest and largest scale of training crops, over that of the evaluation.
    reduce: by which factor images are made smaller, in training and in evaluation.
    evaluation: 'whole' images, or overlapping 'windows' of the size of the crops.
    multiple: sides of whole images are filled up to multiples of so many pixels.
    seed: of the order, the crops, the head and the held-out part.
  """

  protocol: str
  length: str
  batch_size: int
  optim: Mapping[str, Any]
  head_lr: float
  sweep: tuple[float, ...]
  held_out: float
  batch_norm: str
  head: str
  taps: tuple[str, ...]
  width: int
  up_channels: tuple[int, ...]
  output_stride: int
  zoom: tuple[float, float]
  reduce: int
  evaluation: str
  multiple: int
  seed: int

  @property
  def options(self) -> HeadOptions:
    """Of the head."""
    return HeadOptions(self.head, tuple(self.taps), self.width, tuple(self.up_channels))

  @property
  def rates(self) -> tuple[float, ...]:
    """The learning rates that are tried."""
    return tuple(self.sweep) if self.sweep else (float(self.optim['base_lr']),)

  def check(self, where: str) -> None:
    """Checks what nothing else does before training.

    Raises:
      ConfigError: a value that is not allowed.
    """
    choose(f'{where}.head', self.head, HEADS)
    choose(f'{where}.batch_norm', self.batch_norm, BATCH_NORMS)
    choose(f'{where}.evaluation', self.evaluation, EVALUATIONS)
    for name in ('width', 'reduce', 'multiple'):
      if getattr(self, name) < 1:
        raise ConfigError(f'{where}.{name}={getattr(self, name)} must be at least 1.')
    if any(channels < 1 for channels in self.up_channels):
      raise ConfigError(f'{where}.up_channels={self.up_channels} must be positive numbers.')
    if len(self.zoom) != 2 or not 0 < min(self.zoom) <= max(self.zoom):
      raise ConfigError(f'{where}.zoom={self.zoom} must be (low, high) with 0 < low <= high.')
