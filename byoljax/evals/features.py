"""Frozen features of a whole data set: the input of k-NN, linear and every other evaluation.

An extractor maps a function over this process's devices, batch by batch, drops padded rows, and
gathers the features of all processes on every process. The result is a function of the examples
alone: rows and their order do not depend on batch size, padding, devices or processes.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax
from jax.experimental import multihost_utils
import jax.numpy as jnp
import numpy as np

from byoljax.devices import mapping
from byoljax.suggest import unknown

PyTree = Any
Embed = Callable[[PyTree, PyTree, jax.Array], Mapping[str, jax.Array]]
Extract = Callable[
  [PyTree, PyTree, Iterable[Mapping[str, np.ndarray]]], tuple[np.ndarray, np.ndarray]
]

# Rows per process and exchange. Bounds the device memory of an exchange to
# processes * _ROWS_PER_GATHER * D floats for any size of the data set.
_ROWS_PER_GATHER = 4096


class NoExampleError(ValueError):
  """There is no example to take features of: as sources are never empty, none can be read."""


def make_extractor(
  embed: Embed,
  transform: Callable[[jax.Array], jax.Array] | None = None,
  *,
  tap: str = 'embedding',
) -> Extract:
  """Builds `extract(params, method_state, batches) -> (features, labels)`.

  Args:
    embed: `(params, method_state, images [b, S, S, 3]) -> {tap: [b, D]}` in evaluation mode, a
      function of each image alone.
    transform: applied on the device to the batch's images (uint8 [b, S, S, 3]) before `embed`,
      e.g. scaling and normalization; None passes them on unchanged.
    tap: which of `embed`'s outputs to keep.

  Returns:
    A function of (params, method_state, batches), compiled once per batch shape. A batch
    holds host arrays of equal length n, a multiple of the local device count: 'image'
    [n, S, S, 3] (or a tree of arrays, if `transform` takes one), 'index' [n] (the example's number
    in the data set), 'label' [n] (-1: none) and 'valid' bool [n] (False: padding). Every process
    must give equally many batches. It returns features float32 [N, D] and labels int32 [N] of all N
    distinct examples of all processes, in the order of their index, to every process. No gradient.
    It raises NoExampleError if there are no examples, ValueError for an unknown tap.
  """

  def features_of(variables: tuple[PyTree, PyTree, Any], images: Any) -> jax.Array:
    params, method_state, _ = variables
    outputs = embed(params, method_state, images if transform is None else transform(images))
    if tap not in outputs:
      raise ValueError(_unknown_tap(tap, outputs))
    return outputs[tap].astype(jnp.float32)

  mapped = mapping.spmd_map(features_of)

  def extract(
    params: PyTree, method_state: PyTree, batches: Iterable[Mapping[str, np.ndarray]]
  ) -> tuple[np.ndarray, np.ndarray]:
    # A third, for pmap (JAX 0.10) splits trees wrongly behind one without leaves: raw pixels have
    # neither parameters nor statistics.
    variables = mapping.replicate((params, method_state, np.zeros(1, np.float32)))
    rows = _Rows()
    pending = None
    for batch in batches:
      on_device = mapped(variables, mapping.shard({'image': batch['image']})['image'])
      # One batch behind: the devices compute this batch while the previous one is copied to the
      # host.
      if pending is not None:
        rows.add(*pending)
      pending = (on_device, batch)
    if pending is not None:
      rows.add(*pending)
    return rows.assemble()

  return extract


def with_index_as_label(batches: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
  """Batches with the index in place of the label, so that an extractor returns it with each row."""
  return ({**batch, 'label': batch['index']} for batch in batches)


def side_by_side(
  embed: Embed, transform: Callable[[Any], Any] | None = None
) -> Callable[
  [PyTree, PyTree, Iterable[Mapping[str, Any]]], tuple[dict[str, np.ndarray], np.ndarray]
]:
  """Builds `extract(params, method_state, batches) -> ({tap: float32 [N, D]}, labels int32 [N])`.

  Like `make_extractor`, for all taps in one pass, in the order in which `embed` returns them.
  """
  widths: dict[str, int] = {}

  def together(params: PyTree, method_state: PyTree, images: Any) -> dict[str, jax.Array]:
    outputs = {tap: x.astype(jnp.float32) for tap, x in embed(params, method_state, images).items()}
    widths.update({tap: x.shape[-1] for tap, x in outputs.items()})
    return {'all': jnp.concatenate(list(outputs.values()), axis=-1)}

  extract = make_extractor(together, transform, tap='all')

  def extract_all(
    params: PyTree, method_state: PyTree, batches: Iterable[Mapping[str, Any]]
  ) -> tuple[dict[str, np.ndarray], np.ndarray]:
    found, labels = extract(params, method_state, batches)
    parts = np.split(found, np.cumsum(list(widths.values()))[:-1], axis=1)
    return dict(zip(widths, parts, strict=True)), labels

  return extract_all


def every_tap(
  embed: Embed, transform: Callable[[jax.Array], jax.Array] | None = None
) -> Callable[[PyTree, PyTree, Iterable[Mapping[str, Any]], int], dict[str, np.ndarray]]:
  """Builds `extract(params, method_state, batches, size) -> {tap: float32 [size, D]}`.

  Like `side_by_side`, with row i for the example of index i; zeros if it could not be read.
  """
  extract = side_by_side(embed, transform)

  def extract_all(
    params: PyTree, method_state: PyTree, batches: Iterable[Mapping[str, Any]], size: int
  ) -> dict[str, np.ndarray]:
    found, index = extract(params, method_state, with_index_as_label(batches))
    made = {}
    for tap, rows in found.items():
      made[tap] = np.zeros((size, rows.shape[1]), np.float32)
      made[tap][index] = rows
    return made

  return extract_all


def _unknown_tap(tap: str, outputs: Mapping[str, jax.Array]) -> str:
  return unknown('tap', tap, sorted(outputs))


class _Rows:
  """The unpadded rows of the batches so far, on the host."""

  def __init__(self) -> None:
    self.features: list[np.ndarray] = []
    self.index: list[np.ndarray] = []
    self.labels: list[np.ndarray] = []

  def add(self, on_device: jax.Array, batch: Mapping[str, np.ndarray]) -> None:
    """Keeps the rows of [devices, b, D] whose mask is set."""
    keep = np.asarray(batch['valid'], bool)
    features = np.asarray(on_device)
    self.features.append(features.reshape(-1, features.shape[-1])[keep])
    self.index.append(np.asarray(batch['index'], np.int64)[keep])
    self.labels.append(np.asarray(batch['label'], np.int32)[keep])

  def assemble(self) -> tuple[np.ndarray, np.ndarray]:
    """Every process's rows, each example once, in the order of the index."""
    self._gather()
    index = np.concatenate(self.index) if self.index else np.zeros(0, np.int64)
    if not index.size:
      raise NoExampleError('no image can be read: there is nothing to take features of.')
    _, first, position = np.unique(index, return_index=True, return_inverse=True)
    labels = np.concatenate(self.labels)[first]
    features = np.empty((first.size, self.features[0].shape[1]), np.float32)
    # Chunk by chunk, releasing each: many hosts cannot hold ImageNet's features twice.
    self.features.reverse()
    start = 0
    while self.features:
      chunk = self.features.pop()
      features[position[start : start + len(chunk)]] = chunk
      start += len(chunk)
    return features, labels

  def _gather(self) -> None:
    """Replaces this process's rows with those of all processes."""
    if jax.process_count() == 1:
      return
    count = sum(len(chunk) for chunk in self.index)
    width = self.features[0].shape[1] if self.features else 0
    facts = multihost_utils.process_allgather(np.array([count, width], np.int32))
    counts, width = np.asarray(facts)[:, 0], int(np.asarray(facts)[:, 1].max())
    local = self.features, self.index, self.labels
    self.features, self.index, self.labels = [], [], []
    block = _blocks(*local, width)
    for start in range(0, int(counts.max()), _ROWS_PER_GATHER):
      features, index, labels = map(np.asarray, multihost_utils.process_allgather(block(start)))
      for process, real in enumerate(np.clip(counts - start, 0, _ROWS_PER_GATHER)):
        self.features.append(features[process, :real])
        self.index.append(index[process, :real].astype(np.int64))
        self.labels.append(labels[process, :real])


def _blocks(
  features: list[np.ndarray], index: list[np.ndarray], labels: list[np.ndarray], width: int
) -> Callable[[int], tuple[np.ndarray, np.ndarray, np.ndarray]]:
  """`block(start)`: rows start : start + _ROWS_PER_GATHER, zero-padded to that many."""
  columns = (
    np.concatenate(features or [np.zeros((0, width), np.float32)]),
    np.concatenate(index or [np.zeros(0)]).astype(np.int32),  # JAX has no int64 by default.
    np.concatenate(labels or [np.zeros(0)]).astype(np.int32),
  )

  def block(start: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    def pad(column: np.ndarray) -> np.ndarray:
      out = np.zeros((_ROWS_PER_GATHER, *column.shape[1:]), column.dtype)
      rows = column[start : start + _ROWS_PER_GATHER]
      out[: len(rows)] = rows
      return out

    features_, index_, labels_ = map(pad, columns)
    return features_, index_, labels_

  return block
