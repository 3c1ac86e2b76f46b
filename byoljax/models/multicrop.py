"""Views of several sizes through one network, as few forward passes as there are sizes.

As in SwAV's and DINO's code, consecutive views of one size go through the network together, so
batch normalization sees one batch per size. Theirs is [all of view 0, all of view 1, ...]; here the
views of one image are adjacent. Whole-batch statistics are the same, and a group of
`layers.batch_norm(groups=...)` holds all views of its images whatever the number of devices.
"""

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

import jax
import jax.numpy as jnp

from byoljax.models.net import BatchStats, Net


def by_size(views: Sequence[Any]) -> list[list[int]]:
  """Positions of consecutive views of equal shape: sizes 32, 32, 16 give [[0, 1], [2]].

  Args:
    views: arrays [b,H,W,C], or anything with a shape.
  """
  runs = groupby(range(len(views)), key=lambda i: tuple(views[i].shape))
  return [list(positions) for _, positions in runs]


def apply_crops(
  net: Net,
  params: Mapping[str, Any],
  batch_stats: Mapping[str, Any],
  views: Sequence[jax.Array],
  *,
  train: bool,
  upto: str | None = None,
) -> tuple[list[dict[str, jax.Array]], BatchStats]:
  """Every view's outputs of `net`; views of one size go through it as one batch.

  Args:
    net: the network.
    params: its parameters by role.
    batch_stats: its running statistics by role; each size's forward pass starts from those that
      the size before it left.
    views: float32 [b,H,W,3] each, the same b.
    train: see `Net.apply`.
    upto: see `Net.apply`.

  Returns:
    The outputs by name, [b,...], of each view in the order of `views`; the new statistics.

  Raises:
    ValueError: no views.
  """
  if not views:
    raise ValueError('apply_crops got no views: give at least one [b,H,W,3].')
  stats, found = dict(batch_stats), []
  for positions in by_size(views):
    count = len(positions)
    rows = views[positions[0]].shape[0]
    images = jnp.stack([views[i] for i in positions], axis=1)
    images = images.reshape(rows * count, *images.shape[2:])
    outputs, stats = net.apply(params, stats, images, train=train, upto=upto)
    split = {name: x.reshape(rows, count, *x.shape[1:]) for name, x in outputs.items()}
    found += [{name: x[:, i] for name, x in split.items()} for i in range(count)]
  return found, stats
