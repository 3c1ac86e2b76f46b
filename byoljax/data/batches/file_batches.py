"""Batches of image files, assembled from groups of examples of the tf.data graph.

A batch consists of groups of a fixed number of examples, whatever the number of threads. A group
that the graph could not make, because one of its files is damaged, is rebuilt by the same function
without the damaged examples: the batch is the same as if they had been known before.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from byoljax.data.batches import graph
from byoljax.data.batches.ahead import AHEAD, Batch, Batches
from byoljax.data.batches.aligned import Aligned, packed, views_of
from byoljax.data.batches.examples import Plan, Planner
from byoljax.data.fields import Field
from byoljax.data.sources import tensorflow_import

# Enough examples to amortize a call, few enough to spread a batch over all cores.
_GROUP = 64


# step -> (epoch int32 [b], index int64 [b]): the examples of a batch.
At = Callable[[int], tuple[np.ndarray, np.ndarray]]


class FileBatches(Batches):
  """Batches of image files; rows of padding and unreadable examples are black, with index -1."""

  def __init__(
    self,
    steps: range,
    at: At,
    planner: Planner,
    decoder: Any,
    image: Field,
    *,
    sizes: tuple[int, ...],
    threads: int,
    wanted: Sequence[Aligned] = (),
    finish: Callable[[Batch], Batch] = dict,
  ):
    """Starts the graph.

    Args:
      steps: which steps, ascending by one.
      at: step -> epoch int32 [b] and index int64 [b] of its examples, with the same b >= 1 always
        (-1: padding).
      planner: makes the plans of the groups.
      decoder: carries them out (`decode.make_decoder`).
      image: of the source: channels and type of the views.
      sizes: side of each view in pixels.
      threads: for decoding.
      wanted: the further fields that the planner makes.
      finish: from 'index' and 'epoch' int32 [b], 'label' int32 [b, ...], 'views', a tuple of images
        [b, S, S, C], and further fields to what is handed out.
    """
    super().__init__(steps)
    size = len(at(steps.start)[1])
    groups = -(-size // _GROUP)

    def members(number: int) -> tuple[np.ndarray, np.ndarray]:
      step, group = divmod(number, groups)
      epoch, index = at(step)
      rows = slice(group * _GROUP, (group + 1) * _GROUP)
      return epoch[rows], index[rows]

    def plan_of(number: int) -> Plan:
      epoch, index = members(number)
      return planner.plan(index, epoch)

    self._at_step = at
    self._size = size
    self._groups = groups
    self._members = members
    self._planner = planner
    self._decoder = decoder
    self._image = image
    self._sizes = sizes
    self._wanted = tuple(wanted)
    self._finish = finish
    # The stream must not reference the batches, or they would never be collected.
    self._stream = graph.Stream(
      range(steps.start * groups, steps.stop * groups),
      plan_of,
      decoder,
      len(sizes),
      threads=threads,
      ahead=AHEAD * groups,
      wanted=self._wanted,
    )
    self._stream.close_with(self)

  def _at(self, step: int) -> Batch:
    index = np.full(self._size, -1, np.int32)
    label = np.full((self._size, *self._planner.label_shape), -1, np.int32)
    views = tuple(
      np.zeros((self._size, *self._image.shape(size, size)), self._image.dtype)
      for size in self._sizes
    )
    further = tuple(one.empty(self._size) for one in self._wanted)
    for group in range(self._groups):
      number = step * self._groups + group
      made = self._stream.take(number) or self._again(number)
      start = group * _GROUP
      index[start : start + len(made.index)] = made.index
      label[start : start + len(made.label)] = made.label
      arrays = zip((*views, *further), (*made.views, *made.further), strict=True)
      for out, array in arrays:
        out[start + made.row] = array
    epoch, _ = self._at_step(step)
    batch: Batch = {'index': index, 'epoch': epoch, 'label': label}
    batch['views'] = views_of(views, self._wanted, further)
    return self._finish(batch | packed(self._wanted, further))

  def _again(self, number: int) -> graph.Made:
    """Rebuilds a group that the graph could not make: padding, a damaged file, or an error."""
    failure = tensorflow_import.tensorflow().errors.OpError
    make_one = graph.make_one(self._decoder, len(self._sizes), self._wanted)

    def decodes(plan: Plan) -> bool:
      try:
        make_one(plan)
      except failure:
        return False
      return True

    epoch, index = self._members(number)
    while True:
      # An error that made planning fail in the graph is raised here.
      plan = self._planner.plan(index, epoch)
      try:
        return make_one(plan)
      except failure:
        damaged = [p for p in range(len(plan.row)) if not decodes(plan.only(p))]
        if not damaged:
          raise
      for position in damaged:
        self._planner.reject(plan, position, epoch)

  def _stop(self) -> None:
    self._stream.close()
