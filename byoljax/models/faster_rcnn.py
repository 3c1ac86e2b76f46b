"""Faster R-CNN on any encoder with maps: both stages as functions of the weights.

What is put on the encoder is in `detectors`; what is learned in `methods.supervised.detection`.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from byoljax.models import detectors
from byoljax.models.net import Net, stack
from byoljax.models.taps import maps_of, probed_side
from byoljax.ops import anchors, proposals
from byoljax.ops.proposals import DetectionOptions, ProposalOptions
from byoljax.suggest import check_name

PyTree = Any
Size = tuple[int, int]
DETECTIONS = 'detections'
_PROBED = 64


class Detector(NamedTuple):
  """What is put on the encoder, and how it is trained; the published values.

  Attributes:
    kind: 'c4' or 'fpn', see `models.detectors`.
    taps: the maps that 'fpn' reads, finest first, each of half the sides of the one before it; ()
      for the last map of each of the encoder's sizes but the first, of stride 2. 'c4' reads the one
      before the last stage: () or its name.
    channels: of the levels of the pyramid.
    width: of the fully connected layers.
    extra_level: whether a further, coarser level makes proposals.
    anchor_scales: sides of anchors in strides of their map; () for (8,) of 'fpn' and (2, 4, 8, 16,
      32) of 'c4'.
    anchor_ratios: heights over widths.
    bins: side of a region's grid; 0 for 7 of 'fpn' and 14 of 'c4', halved by its stage.
    finest: see `ops.proposals.pooled`.
    first: anchors of an image that the first stage's loss sees; half of them positive at most.
    second: regions of an image that the second stage's sees; a quarter of them objects at most.
    training: how proposals are chosen in training: how many of a map are looked at, how many stay.
    testing: the same in evaluation.
    found: see `ops.proposals.DetectionOptions`.
  """

  kind: str = 'fpn'
  taps: tuple[str, ...] = ()
  channels: int = 256
  width: int = 1024
  extra_level: bool = False
  anchor_scales: tuple[float, ...] = ()
  anchor_ratios: tuple[float, ...] = anchors.RATIOS
  bins: int = 0
  finest: float = 14.0
  first: int = 256
  second: int = 512
  training: tuple[int, int] = (2000, 1000)
  testing: tuple[int, int] = (1000, 1000)
  found: DetectionOptions = DetectionOptions()

  @property
  def scales(self) -> tuple[float, ...]:
    """Of the anchors."""
    default = (8.0,) if self.kind == 'fpn' else (2.0, 4.0, 8.0, 16.0, 32.0)
    return tuple(self.anchor_scales) or default

  @property
  def grid(self) -> int:
    """Side of a region's grid."""
    return self.bins or (7 if self.kind == 'fpn' else 14)


class Stages(NamedTuple):
  """Both stages as functions of the weights.

  Attributes:
    whole: the whole network; its second stage reads whole images unless regions are given.
    alone: the second stage, which reads maps of the first.
    classes: C.
    detector: see `Detector`.
    copied: the names of the blocks that the second stage has from the encoder, if any.
  """

  whole: Net
  alone: Net
  classes: int
  detector: Detector
  copied: tuple[str, ...]

  def first(
    self, params: PyTree, bn: PyTree, view: jax.Array, *, train: bool
  ) -> tuple[dict[str, jax.Array], tuple[jax.Array, ...], PyTree]:
    """Outputs 'embedding' and 'proposals', the maps that regions are read from, statistics."""
    outputs, new = self.whole.apply(params, bn, view, train=train, upto='proposals')
    # Whole images get to the last stage for the embedding alone: statistics are those of regions.
    kept = {name: bn['encoder'][name] for name in self.copied}
    new = new | {'encoder': dict(new['encoder']) | kept}
    return outputs, tuple(outputs[level] for level in self.whole.taps), new

  def second(
    self, params: PyTree, bn: PyTree, maps: Any, regions: jax.Array, image: Size, *, train: bool
  ) -> tuple[jax.Array, jax.Array, PyTree]:
    """Logits [b, r, C + 1] and codes [b, r, C, 4] of regions [b, r, 4] in pixels, statistics."""
    inputs = {'box_head': {'regions': regions / corners(image)[None, None]}}
    outputs, bn = self.alone.apply(params, bn, maps, train=train, inputs=inputs)
    made, classes = outputs['boxes'], self.classes
    codes = made[..., classes + 1 :].reshape(*made.shape[:2], classes, 4)
    return made[..., : classes + 1], codes, bn

  def anchors(self, maps: Sequence[Any], image: Size) -> tuple[np.ndarray, tuple[int, ...]]:
    """All anchors [A, 4] in pixels, and how many each map has."""
    sizes = [(each.shape[1], each.shape[2]) for each in maps]
    if self.detector.extra_level and self.detector.kind == 'fpn':
      height, width = sizes[-1]
      sizes.append((-(-height // 2), -(-width // 2)))
    scales, ratios = self.detector.scales, self.detector.anchor_ratios
    count = anchors.per_place(scales, ratios)
    every = anchors.of_maps(sizes, image, scales, ratios)
    return every, tuple(height * width * count for height, width in sizes)

  def propose(
    self, made: jax.Array, maps: Sequence[Any], image: Size, chosen: tuple[int, int]
  ) -> tuple[jax.Array, jax.Array]:
    """Regions [b, r, 4] in pixels, and which are there, of the first stage's outputs [b, A, 5]."""
    every, counts = self.anchors(maps, image)
    options = ProposalOptions(*chosen)

    def of_image(made: jax.Array) -> tuple[jax.Array, jax.Array]:
      return proposals.propose(made[:, 0], made[:, 1:], every, counts, image, options)

    return jax.vmap(of_image)(made)

  def detect(self, params: PyTree, bn: PyTree, images: jax.Array) -> dict[str, jax.Array]:
    """Outputs 'embedding', and 'detections' [b, most * 6], see `proposals.detections`."""
    image = images.shape[1], images.shape[2]
    outputs, maps, _ = self.first(params, bn, images, train=False)
    regions, there = self.propose(outputs['proposals'], maps, image, self.detector.testing)
    logits, codes, _ = self.second(params, bn, maps, regions, image, train=False)
    options = DetectionOptions(*self.detector.found)

    def of_image(logits: jax.Array, codes: jax.Array, regions: jax.Array, there: jax.Array) -> Any:
      return proposals.detections(logits, codes, regions, there, image, options)

    found = jax.vmap(of_image)(logits, codes, regions, there)
    return {'embedding': outputs['embedding'], DETECTIONS: found.reshape(len(images), -1)}


def stages_of(
  encoder: nn.Module,
  detector: Detector,
  classes: int,
  *,
  channels: int = 3,
  axis: str | None = None,
  dtype: str = 'float32',
) -> Stages:
  """Both stages on an encoder.

  Args:
    encoder: with the mapped axis of its statistics.
    detector: see `Detector`.
    classes: C.
    channels: of the images.
    axis: mapped axis whose devices share batch statistics in training.
    dtype: compute type.

  Raises:
    ValueError: an unknown kind or map, or an encoder that the kind cannot be put on.
  """
  check_name('detector', detector.kind, detectors.KINDS)
  c4, taps, copied = detector.kind == 'c4', tuple(detector.taps), ()
  if c4:
    number = detectors.last_stage(encoder)
    only = (f'stage{number - 1}',)
    if taps not in ((), only):
      raise ValueError(
        f"detector 'c4' reads the map before the encoder's last stage, so taps={taps} must be () "
        f"or {only}; 'fpn' reads others."
      )
    taps = only
    count = len(detectors.last_blocks(encoder))
    copied = tuple(f'stage{number}_block{i}' for i in range(count))
  taps = taps or pyramid_taps(encoder, channels)
  known = _maps(encoder, channels)
  for tap in taps:
    check_name('map', tap, known)
  compute, width = jnp.dtype(dtype), 0 if c4 else detector.channels
  count = anchors.per_place(detector.scales, detector.anchor_ratios)
  rpn = detectors.ProposalHead(count, width, detector.extra_level and not c4, compute)
  head = detectors.BoxHead(
    classes,
    detector.grid,
    detector.finest,
    0 if c4 else detector.width,
    encoder if c4 else None,
    axis,
    compute,
  )
  levels = tuple(f'rpn/level{number}' for number in range(len(taps)))
  last = ('box_head', 'boxes', head)
  whole = stack(
    (('encoder', 'embedding', encoder), ('rpn', 'proposals', rpn), last),
    levels,
    {'rpn': taps, 'box_head': levels},
  )
  return Stages(whole, stack((last,)), classes, detector, copied)


def pyramid_taps(encoder: nn.Module, channels: int) -> tuple[str, ...]:
  """The last map of each size of an encoder, but for maps of a stride below 4.

  Raises:
    ValueError: it has no such map.
  """
  known = _maps(encoder, channels)
  most = probed_side(encoder, _PROBED) // 4
  last = {shape[1]: name for name, shape in known.items() if shape[1] <= most}
  if not last:
    raise ValueError(f'{type(encoder).__name__} has no map of a stride of 4 or more: name `taps`.')
  return tuple(last.values())


def _maps(encoder: nn.Module, channels: int) -> dict[str, tuple[int, ...]]:
  found = maps_of(encoder, channels, _PROBED)
  maps = {name: shape for name, shape in found.items() if len(shape) == 4}
  if not maps:
    raise ValueError(
      f'{type(encoder).__name__} has no feature map that a detector could read: take a '
      'convolutional encoder; a module of your own needs self.sow("intermediates", "map", x).'
    )
  return maps


def corners(image: Size) -> jax.Array:
  """(H, W, H, W), by which corners in pixels are divided to be fractions."""
  return jnp.asarray([*image, *image], jnp.float32)
