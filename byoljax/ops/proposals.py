"""From the outputs of a detector's two stages to boxes, for one image, with static shapes.

Faster R-CNN (Ren et al., arXiv 1506.01497). What is not there is marked, never left out: results
have as many rows as they may have at most.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from byoljax.ops import boxes as boxes_lib
from byoljax.ops import nms
from byoljax.ops.roi_align import roi_align

# How the second stage's codes are weighed, see `boxes.encode`.
BOX_WEIGHTS = (10.0, 10.0, 5.0, 5.0)
_LEAST_SIDE = 1e-3  # Of a proposal, in pixels.


class ProposalOptions(NamedTuple):
  """How proposals are chosen.

  Attributes:
    before: how many of each map's best are looked at.
    after: how many stay.
    threshold: of the overlap with a better one, above which a proposal is dropped.
  """

  before: int
  after: int
  threshold: float = 0.7


class DetectionOptions(NamedTuple):
  """How detections are chosen.

  Attributes:
    score: the least that a detection must have.
    threshold: of the overlap with a better one of its class, above which it is dropped.
    candidates: how many of all regions and classes together are looked at, the best ones.
    most: how many an image may have.
  """

  score: float = 0.05
  threshold: float = 0.5
  candidates: int = 1000
  most: int = 100


def propose(
  objectness: jax.Array,
  codes: jax.Array,
  anchors: np.ndarray,
  counts: tuple[int, ...],
  image: tuple[int, int],
  options: ProposalOptions,
) -> tuple[jax.Array, jax.Array]:
  """The first stage's regions: boxes float32 [after, 4] in pixels, best first, and which are there.

  Of each map the best, decoded and clipped; those of one map drop each other, and the best of all
  maps are taken. No gradient.

  Args:
    objectness: float32 [A], logits.
    codes: float32 [A, 4].
    anchors: [A, 4].
    counts: of each map's anchors; they add up to A.
    image: (H, W) in pixels.
    options: see `ProposalOptions`.
  """
  objectness, codes = jax.lax.stop_gradient((objectness, codes))
  boxes, scores, level, start = [], [], [], 0
  for number, count in enumerate(counts):
    best, index = jax.lax.top_k(objectness[start : start + count], min(count, options.before))
    own = jnp.asarray(anchors[start : start + count])[index]
    boxes.append(boxes_lib.decode(codes[start : start + count][index], own))
    scores.append(best)
    level.append(jnp.full(best.shape, number))
    start += count
  every = boxes_lib.clip(jnp.concatenate(boxes), *image)
  side = (every[:, 2:] - every[:, :2]).min(1)
  index, there = nms.select(
    every,
    jnp.concatenate(scores),
    side > _LEAST_SIDE,
    threshold=options.threshold,
    count=options.after,
    classes=jnp.concatenate(level),
  )
  return jnp.where(there[:, None], every[index], 0.0), there


def pooled(maps: Sequence[jax.Array], boxes: jax.Array, *, bins: int, finest: float) -> jax.Array:
  """Grids of regions, each read from the map that fits its size: [r, bins, bins, C].

  Map k of a feature pyramid is for sides from `finest` * 2^k strides of the first map on, the
  square root of the area (Lin et al., arXiv 1612.03144, equation 1: finest = 14, that is 112 pixels
  for the second map, of stride 8).

  Args:
    maps: of one image, each [h, w, C], sides halving from map to map.
    boxes: float32 [r, 4], fractions of the image.
    bins: side of the grids.
    finest: see above.
  """

  def at(features: jax.Array) -> jax.Array:
    height, width = features.shape[:2]
    return boxes * jnp.asarray([[height, width, height, width]], jnp.float32)

  side = jnp.sqrt(jnp.maximum(boxes_lib.area(at(maps[0])), 1e-6))
  level = jnp.clip(jnp.floor(jnp.log2(side / finest)), 0, len(maps) - 1)[:, None, None, None]
  found = [
    jnp.where(level == number, roi_align(each, at(each), bins=bins, scale=1.0), 0)
    for number, each in enumerate(maps)
  ]
  return sum(found[1:], found[0])


def detections(
  logits: jax.Array,
  codes: jax.Array,
  regions: jax.Array,
  there: jax.Array,
  image: tuple[int, int],
  options: DetectionOptions,
) -> jax.Array:
  """The second stage's boxes: float32 [most, 6], best first.

  Args:
    logits: float32 [r, C + 1], of the classes and, last, of background.
    codes: float32 [r, C, 4].
    regions: float32 [r, 4] in pixels.
    there: bool [r].
    image: (H, W) in pixels.
    options: see `DetectionOptions`.

  Returns:
    Rows (y_min, x_min, y_max, x_max, class, score), corners as fractions of the image; class -1 and
    zeros where there are fewer.
  """
  classes = codes.shape[1]
  scores = jnp.where(there[:, None], jax.nn.softmax(logits, axis=-1)[:, :classes], -1.0).reshape(-1)
  best, index = jax.lax.top_k(scores, min(options.candidates, scores.size))
  region, kind = index // classes, index % classes
  boxes = boxes_lib.decode(codes.reshape(-1, 4)[index], regions[region], BOX_WEIGHTS)
  boxes = boxes_lib.clip(boxes, *image)
  chosen, kept = nms.select(
    boxes,
    best,
    best >= options.score,
    threshold=options.threshold,
    count=options.most,
    classes=kind,
  )
  size = jnp.asarray([image[0], image[1]] * 2, jnp.float32)[None]
  rows = [boxes[chosen] / size, kind[chosen][:, None], best[chosen][:, None]]
  nothing = jnp.asarray([0, 0, 0, 0, -1, 0], jnp.float32)[None]
  return jnp.where(kept[:, None], jnp.concatenate(rows, -1), nothing)
