"""Metrics of dense outputs, batch by batch: segmentation maps, depth.

A `Metric` is three functions. `update` is pure and can be jitted and mapped over devices: what it
keeps are sums, so the result is that of all examples at once, however they are cut into batches
and spread over devices, and padding does not count.

    metric = mean_iou(num_classes=21, axis='batch')
    state = metric.init()
    for batch in batches:  # update inside of a mapped function
      state = metric.update(state, logits, labels, mask)
    metric.result(state)  # {'mean_iou': 0.61, 'pixel_accuracy': 0.9}

Counts are exact up to 2^61. A sum of errors is compensated (Neumaier): its error does not grow with
the number of batches.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from byoljax.devices import collectives

PyTree = Any
# Counts are two int32: this many low bits, and the rest. JAX has no int64 by default.
_BITS = 30


class Metric(NamedTuple):
  """A metric as functions.

  Attributes:
    init: () -> state, a tree of arrays.
    update: (state, outputs [b, ...], targets [b, ...], mask bool [b]) -> state. With an axis, state
      is the same on all devices; `mask` is False for padding.
    result: (state) -> {name: number}, on the host.
  """

  init: Callable[[], PyTree]
  update: Callable[[PyTree, jax.Array, jax.Array, jax.Array], PyTree]
  result: Callable[[PyTree], dict[str, float]]


def mean_iou(num_classes: int, *, axis: str | None = None) -> Metric:
  """Mean intersection over union and pixel accuracy of a segmentation.

  IoU_c = TP_c / (TP_c + FP_c + FN_c); the mean is over the classes that occur among targets or
  predictions. Accuracy is the share of right pixels among those with a label.

  Args:
    num_classes: C. Targets outside of 0 ... C - 1 (255, -1) are ignored.
    axis: the mapped axis, over which counts are summed; None on a single device.

  Returns:
    A metric with outputs [b, ..., C] (scores; the largest is predicted), targets int [b, ...] and
    the results 'mean_iou' and 'pixel_accuracy', in [0, 1]; NaN without a single labelled pixel.
  """

  def init() -> PyTree:
    return _zero_counts((num_classes, num_classes))

  def update(state: PyTree, outputs: jax.Array, targets: jax.Array, mask: jax.Array) -> PyTree:
    if outputs.shape != (*targets.shape, num_classes):
      raise ValueError(
        f'outputs are [b, ..., {num_classes}] and targets [b, ...], got {outputs.shape} and '
        f'{targets.shape}.'
      )
    predicted, targets = jnp.argmax(outputs, axis=-1), targets.astype(jnp.int32)
    counted = (targets >= 0) & (targets < num_classes) & _spread(mask, targets)
    # What does not count goes into a bin of its own behind the others.
    cells = jnp.where(counted, targets * num_classes + predicted, num_classes**2)
    found = jnp.bincount(cells.ravel(), length=num_classes**2 + 1)[:-1]
    return _add_counts(state, found.reshape(num_classes, num_classes), axis)

  def result(state: PyTree) -> dict[str, float]:
    ious = [iou for iou in class_ious(state) if iou == iou]
    if not ious:
      return {'mean_iou': float('nan'), 'pixel_accuracy': float('nan')}
    confusion = _counts(state)
    right = float(np.trace(confusion) / confusion.sum())
    return {'mean_iou': float(np.mean(ious)), 'pixel_accuracy': right}

  return Metric(init, update, result)


def depth_errors(*, axis: str | None = None) -> Metric:
  """The errors of depth maps (Eigen et al. 2014, arXiv 1406.2283, section 4.3).

  Over the pixels of all images whose true depth d is known, p being the predicted one:
  rms = sqrt(mean (p - d)^2), rel = mean |p - d| / d, and the share of max(p / d, d / p) < 1.25^k.
  A depth is known where it is finite and above 0; what is predicted to be 0 or less is never within
  a ratio.

  Args:
    axis: the mapped axis, over which sums are taken; None on a single device.

  Returns:
    A metric of outputs and targets [b, ...] with the results 'rms', in the unit of depth, 'rel',
    'within_1.25', 'within_1.25^2' and 'within_1.25^3', in [0, 1]; NaN without a single known depth.
  """

  def init() -> PyTree:
    zeros = jnp.zeros(2, jnp.float32)
    return {'sum': zeros, 'lost': zeros, 'within': _zero_counts((3,)), 'count': _zero_counts(())}

  def update(state: PyTree, outputs: jax.Array, targets: jax.Array, mask: jax.Array) -> PyTree:
    if outputs.shape != targets.shape:
      raise ValueError(f'outputs {outputs.shape} and targets {targets.shape} differ in shape.')
    known = jnp.isfinite(targets) & (targets > 0) & _spread(mask, targets)
    true = jnp.where(known, targets, 1.0).astype(jnp.float32)
    made = jnp.where(known, outputs, 1.0).astype(jnp.float32)
    error = made - true
    each = (error**2, jnp.abs(error) / true)
    found = jnp.stack([jnp.sum(x, dtype=jnp.float32) for x in each])
    total, lost = _compensated(state['sum'], state['lost'], collectives.psum(found, axis))
    positive = jnp.where(made > 0, made, 1.0)
    ratio = jnp.where(made > 0, jnp.maximum(positive / true, true / positive), jnp.inf)
    within = jnp.stack([jnp.sum(known & (ratio < 1.25**k), dtype=jnp.int32) for k in (1, 2, 3)])
    return {
      'sum': total,
      'lost': lost,
      'within': _add_counts(state['within'], within, axis),
      'count': _add_counts(state['count'], jnp.sum(known, dtype=jnp.int32), axis),
    }

  def result(state: PyTree) -> dict[str, float]:
    count = int(_counts(state['count'])) or float('nan')
    square, relative = np.asarray(state['sum'], np.float64) + np.asarray(state['lost'], np.float64)
    shares = _counts(state['within']) / count
    made = {'rms': float(np.sqrt(square / count)), 'rel': float(relative / count)}
    names = ('within_1.25', 'within_1.25^2', 'within_1.25^3')
    return made | {name: float(share) for name, share in zip(names, shares, strict=True)}

  return Metric(init, update, result)


def class_ious(state: PyTree) -> list[float]:
  """IoU of every class, of a state of `mean_iou`; NaN where it occurs nowhere."""
  confusion = _counts(state)  # Targets in rows, predictions in columns.
  right = np.diag(confusion)
  union = confusion.sum(0) + confusion.sum(1) - right
  return [float(r / u) if u else float('nan') for r, u in zip(right, union, strict=True)]


def _spread(mask: jax.Array, like: jax.Array) -> jax.Array:
  """A mask [b], or one of the whole shape, in the shape of `like`."""
  rest = (1,) * (like.ndim - mask.ndim)
  return jnp.broadcast_to(mask.reshape(*mask.shape, *rest), like.shape)


def _compensated(total: jax.Array, lost: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Neumaier's sum: what rounding takes from the total is kept beside it."""
  new = total + x
  rest = jnp.where(jnp.abs(total) >= jnp.abs(x), (total - new) + x, (x - new) + total)
  return new, lost + rest


def _zero_counts(shape: tuple[int, ...]) -> dict[str, jax.Array]:
  return {'low': jnp.zeros(shape, jnp.int32), 'high': jnp.zeros(shape, jnp.int32)}


def _add_counts(
  state: dict[str, jax.Array], found: jax.Array, axis: str | None
) -> dict[str, jax.Array]:
  """Counts after a batch, of less than 2^30 over all devices, has been added."""
  low = state['low'] + collectives.psum(found.astype(jnp.int32), axis)
  return {'low': low & (2**_BITS - 1), 'high': state['high'] + (low >> _BITS)}


def _counts(state: dict[str, jax.Array]) -> np.ndarray:
  low, high = (np.asarray(state[name], np.int64) for name in ('low', 'high'))
  return (high << _BITS) + low
