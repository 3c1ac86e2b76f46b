"""Outputs at every pixel of whole images at their own sizes: scores of a set, and predictions."""

from collections.abc import Iterator, Mapping
import functools
from typing import Any

import jax
import numpy as np

from byoljax.data.batches import whole
from byoljax.data.sources.source import Source
from byoljax.devices import collectives, mapping
from byoljax.encoders import dense as dense_lib
from byoljax.encoders.dense import SEGMENTATION, Design
from byoljax.evals import streaming
from byoljax.protocols import extraction
from byoljax.protocols.dense_protocol import KINDS
from byoljax.workdir import activity

PyTree = Any


def evaluate(
  kind: str, design: Design, params: PyTree, bn: PyTree, source: Source, field: str, batch_size: int
) -> tuple[dict[str, float], list[float]]:
  """Scores of a network over all pixels of all images with a truth.

  Neither the batch's size nor the number of devices changes them, but for the rounding of sums.

  Args:
    kind: a key of `KINDS`.
    design: of the network.
    params: by role.
    bn: running statistics by role.
    source: images with the field.
    field: that holds the truth.
    batch_size: global, of images of one size.

  Returns:
    The metric's results, and the IoU of each class, [] of depth.
  """
  update = _update(kind, design)
  state = mapping.replicate(KINDS[kind].metric(design.channels, None).init())
  weights = mapping.replicate((params, bn))
  for batch in _batches(design, source, (field,), batch_size):
    seen = {name: batch[name] for name in ('image', 'inside', 'valid')}
    state = update((weights, state), mapping.shard(seen | {'truth': batch[field]}))
    if mapping.must_await_every_step():
      jax.block_until_ready(state)
  state = mapping.fetch(state)
  ious = streaming.class_ious(state) if kind == SEGMENTATION else []
  return KINDS[kind].metric(design.channels, None).result(state), ious


@functools.cache
def _update(kind: str, design: Design) -> Any:
  """((weights, metric's state), batch) -> state, mapped; compiled once for each size of image."""
  metric = KINDS[kind].metric(design.channels, collectives.AXIS)

  def update(given: tuple[PyTree, PyTree], batch: Mapping[str, jax.Array]) -> PyTree:
    (params, bn), state = given
    outputs = design.outputs(params, bn, batch['image'], batch['inside'])
    counted = batch['inside'] & batch['valid'][:, None, None]
    return metric.update(state, outputs, batch['truth'][..., 0], counted)

  return mapping.spmd(update, donate=False)


def predictions(
  design: Design, params: PyTree, bn: PyTree, source: Source, batch_size: int
) -> Iterator[tuple[int, np.ndarray]]:
  """(index, classes int32 [H, W] or depths float32 [H, W]) of every image that can be read.

  Each at its own size; in the order of sizes. On one device.
  """
  for batch in _batches(design, source, (), batch_size, alone=True):
    made = dense_lib.answers(design, params, bn, batch['image'], batch['inside'])
    made = np.asarray(made)
    for row in np.flatnonzero(batch['valid']):
      height, width = batch['size'][row]
      yield int(batch['index'][row]), made[row, :height, :width]


def _batches(
  design: Design,
  source: Source,
  fields: tuple[str, ...],
  batch_size: int,
  *,
  alone: bool = False,
) -> Iterator[dict[str, Any]]:
  multiple, least = design.sides
  members = whole.groups(source, multiple=multiple, least=least)
  most = max(len(group.index) for group in members)
  size = min(batch_size, most)
  batches = whole.whole_batches(
    source,
    members,
    batch_size=size if alone else extraction.fit_to_devices(size),
    fields=fields,
    process_index=0 if alone else jax.process_index(),
    process_count=1 if alone else jax.process_count(),
  )
  own = -(-source.size // jax.process_count())
  what = f'predictions of {source.name}'
  return activity.counted(batches, what, own, lambda batch: int(batch['valid'].sum()), 'images')
