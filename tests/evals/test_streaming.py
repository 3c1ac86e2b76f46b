"""Streaming metrics: values by hand, uneven batches, devices, long sums."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from byoljax.evals import streaming

# Two images of two pixels; classes 0, 1, 2, and a third that never occurs.
TARGETS = np.array([[[0, 1]], [[1, 255]]])
PREDICTED = np.array([[[0, 0]], [[1, 2]]])
ALL = np.ones(2, bool)


def scores(predicted, num_classes):
  return np.eye(num_classes, dtype=np.float32)[predicted]


def after(metric, *batches):
  update = jax.jit(metric.update)
  return metric.result(functools.reduce(lambda s, batch: update(s, *batch), batches, metric.init()))


def test_mean_iou_by_hand():
  """Class 0: 1 right of 2 in the union; class 1: 1 of 2; 2 and 3 nowhere; 255 does not count."""
  found = after(streaming.mean_iou(4), (scores(PREDICTED, 4), TARGETS, ALL))
  assert found == {'mean_iou': 0.5, 'pixel_accuracy': pytest.approx(2 / 3)}
  # A class that is predicted and never right is 0, and counts.
  found = after(streaming.mean_iou(4), (scores(np.array([[[0, 3]]]), 4), TARGETS[:1], ALL[:1]))
  assert found['mean_iou'] == pytest.approx((1 + 0 + 0) / 3)
  # Maps are files of bytes: 20 * 21 + 20 is no byte.
  maps = np.array([[[20, 15, 255]]], np.uint8)
  found = after(streaming.mean_iou(21), (scores(np.minimum(maps, 20), 21), maps, ALL[:1]))
  assert found == {'mean_iou': 1.0, 'pixel_accuracy': 1.0}
  assert all(np.isnan(value) for value in after(streaming.mean_iou(3)).values())


def test_the_iou_of_every_class_by_hand():
  metric = streaming.mean_iou(4)
  state = metric.update(metric.init(), scores(PREDICTED, 4), TARGETS, ALL)
  assert streaming.class_ious(state) == [0.5, 0.5, pytest.approx(np.nan, nan_ok=True)] + [
    pytest.approx(np.nan, nan_ok=True)
  ]


def test_errors_of_depth_by_hand():
  """Ratios 1.2, 1.5, 3 and one of a depth below 0; two depths are not known."""
  targets = np.array([[1.0, 2.0, 3.0, 4.0, 0.0, np.nan]])
  outputs = np.array([[1.2, 3.0, 1.0, -1.0, 5.0, 5.0]])
  found = after(streaming.depth_errors(), (outputs, targets, np.ones(1, bool)))
  assert found == {
    'rms': pytest.approx(np.sqrt((0.04 + 1 + 4 + 25) / 4)),
    'rel': pytest.approx((0.2 + 0.5 + 2 / 3 + 1.25) / 4),
    'within_1.25': 0.25, 'within_1.25^2': 0.5, 'within_1.25^3': 0.5,
  }  # fmt: skip
  nothing = after(streaming.depth_errors(), (outputs, targets, np.zeros(1, bool)))
  assert all(np.isnan(value) for value in nothing.values())


@pytest.mark.parametrize('kind', ['iou', 'depth'])
def test_batches_padding_and_devices_do_not_matter(kind):
  """13 examples as a whole, as 4 + 4 + 4 + 1 padded, and each of these over four devices."""
  rng = np.random.default_rng(0)
  if kind == 'iou':
    make = functools.partial(streaming.mean_iou, 5)
    outputs = rng.normal(size=(13, 6, 5, 5)).astype(np.float32)
    targets = rng.integers(-1, 6, (13, 6, 5))
  else:
    make = streaming.depth_errors
    outputs, targets = rng.normal(2, 1, size=(2, 13, 6, 5)).astype(np.float32)
  whole = after(make(), (outputs, targets, np.ones(13, bool)))
  # Padding holds whatever the last batch left there.
  padded = [np.concatenate([x, x[:3]]) for x in (outputs, targets)]
  parts = [x.reshape(4, 4, *x.shape[1:]) for x in (*padded, np.arange(16) < 13)]
  in_parts = after(make(), *zip(*parts, strict=True))
  metric = make(axis='batch')
  update = jax.jit(jax.vmap(metric.update, (None, 0, 0, 0), axis_name='batch'))
  state = metric.init()
  for batch in zip(*parts, strict=True):
    states = update(state, *(x[:, None] for x in batch))
    jax.tree.map(lambda x: np.testing.assert_array_equal(x, x[:1].repeat(4, 0)), states)
    state = jax.tree.map(lambda x: x[0], states)
  # Counts are exact; sums of 390 squares in float32 differ by their order.
  tolerance = 0 if kind == 'iou' else 2e-6
  for found in (in_parts, metric.result(state)):
    assert found == {name: pytest.approx(x, rel=tolerance, abs=0) for name, x in whole.items()}


def test_counts_go_beyond_int32():
  metric = streaming.mean_iou(2)
  state = metric.init()
  almost = jnp.full((2, 2), 2**30 - 1, jnp.int32)
  for _ in range(5):
    state = streaming._add_counts(state, almost, None)
  np.testing.assert_array_equal(streaming._counts(state), np.full((2, 2), 5 * (2**30 - 1)))
  assert metric.result(state)['pixel_accuracy'] == 0.5


def test_a_long_sum_loses_nothing():
  """2^24 + 1 is no float32: a plain sum would stay at 2^24."""
  metric = streaming.depth_errors()
  one = (np.full((1, 1), 2, np.float32), np.ones((1, 1), np.float32), np.ones(1, bool))
  state = metric.init() | {'sum': jnp.array([2**24, 0], jnp.float32)}
  update = jax.jit(metric.update)
  for _ in range(10):
    state = update(state, *one)
  assert metric.result(state)['rms'] == ((2**24 + 10) / 10) ** 0.5


def test_wrong_shapes_are_refused():
  with pytest.raises(ValueError, match=r'outputs are \[b, ..., 3\]'):
    streaming.mean_iou(3).update({}, np.zeros((2, 4)), np.zeros((2,), int), ALL)
  with pytest.raises(ValueError, match='differ in shape'):
    streaming.depth_errors().update({}, np.zeros((2, 4)), np.zeros((2, 5)), ALL)
