"""Colorization: what the network sees, what is counted, what weighs nothing, and pictures."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from byoljax.method import transformed
from byoljax.ops import color, color_bins
from tests.methods.test_contract import BATCH, batch_of, make, steps_of

NAME, KEY, STEP = 'colorization', jax.random.key(0), jnp.int32(0)
BINS = color_bins.ab_bins(20, 0)


def images(rows=4, gray=()):
  """A batch in [0, 1], as mean 0 and deviation 1 leave it, of smooth colors."""
  rng = np.random.default_rng(0)
  view = np.kron(rng.uniform(0.1, 0.9, (rows, 2, 2, 3)), np.ones((1, 4, 4, 1))).astype(np.float32)
  for row in gray:
    view[row] = view[row].mean(-1, keepdims=True)
  return batch_of(NAME, rows=rows) | {'views': (view,)}


def lab_of(batch):
  return np.asarray(color.rgb_to_lab(batch['views'][0]))


@pytest.fixture(scope='module')
def colorization():
  """The method, a batch as it sees it, parameters and state."""
  method = make(NAME, axis=None)
  seen = transformed(method, images(gray=(1,)), KEY, STEP)
  return method, seen, *method.init(KEY, seen)


@pytest.fixture(scope='module')
def loss(colorization):
  method, _, params, _ = colorization
  return jax.jit(lambda state, batch, step: method.loss(params, state, batch, KEY, step))


def test_the_network_sees_no_color(colorization):
  _, seen, _, _ = colorization
  view = np.asarray(seen['views'][0])
  np.testing.assert_allclose(view, np.repeat(view[..., :1], 3, -1), atol=1e-5)
  lab = lab_of(images(gray=(1,)))
  np.testing.assert_allclose(lab_of(seen)[..., 0], lab[..., 0], atol=1e-3)
  np.testing.assert_allclose(seen['ab'], lab[..., 1:], atol=1e-4)


def test_the_nearest_bins_of_colored_pictures_are_counted_in_the_first_epoch(colorization, loss):
  method, seen, _, state = colorization
  _, aux = loss(state, seen, STEP)
  # One color for every 2x2 pixels, which are alike in these pictures.
  ab = np.asarray(seen['ab'])[[0, 2, 3], ::2, ::2].reshape(-1, 1, 2)
  nearest = ((ab - BINS) ** 2).sum(-1).argmin(-1)
  np.testing.assert_array_equal(aux.rows, np.bincount(nearest, minlength=len(BINS)))
  once = method.remember(state, aux.rows, jnp.asarray(True))
  np.testing.assert_array_equal(once.counts, aux.rows)
  np.testing.assert_array_equal(
    method.remember(once, aux.rows, jnp.asarray(False)).counts, aux.rows
  )
  steps = 2  # of an epoch, by the contract's `make`
  assert int(loss(once, seen, jnp.int32(steps - 1))[1].rows.sum()) == len(ab)
  assert not loss(once, seen, jnp.int32(steps))[1].rows.any()


def test_counts_are_equal_on_four_devices():
  (_, *states), _ = steps_of(NAME, 3)
  alone, _ = steps_of(NAME, 3, how=jax.jit)
  for several, one in zip(states, alone[1:], strict=True):
    np.testing.assert_array_equal(several.method_state.counts, one.method_state.counts)
  assert states[0].method_state.counts.sum() == BATCH * 16
  assert (
    states[1].method_state.counts.sum() == states[2].method_state.counts.sum() == 2 * BATCH * 16
  )


def test_rare_colors_weigh_more_and_gray_pictures_nothing(colorization, loss):
  _, seen, _, state = colorization
  _, aux = loss(state, seen, STEP)
  counts = state.counts + aux.rows
  value, _ = loss(state.replace(counts=counts), seen, STEP)
  # The head begins with zeros, so that every place's cross-entropy is the logarithm of Q.
  weights = color_bins.rebalancing(color_bins.smoothed(counts, BINS))
  expected = np.log(75) * float((weights * aux.rows).sum()) / (4 * 16)
  assert float(value) == pytest.approx(expected, rel=1e-5)
  often, never = jnp.argmax(aux.rows), jnp.argmin(aux.rows)
  assert float(weights[never]) > 2 * float(weights[often])
  alone = {'views': (seen['views'][0][1:2],), 'ab': seen['ab'][1:2]}
  gray = seen | {name: jax.tree.map(lambda x: jnp.repeat(x, 4, 0), alone[name]) for name in alone}
  assert float(loss(state, gray, STEP)[0]) == 0.0


def test_with_a_uniform_prior_the_loss_begins_at_the_logarithm_of_the_bins():
  method = make(NAME, axis=None, uniform=1.0)
  seen = transformed(method, images(), KEY, STEP)
  value, aux = jax.jit(method.loss)(*method.init(KEY, seen), seen, KEY, STEP)
  assert float(value) == pytest.approx(np.log(75), rel=1e-5)
  assert aux.metrics['chroma_truth'] > 5


def test_pictures_keep_the_lightness(colorization):
  method, _, params, state = colorization
  batch = images()
  shown = method.pictures(params, state, batch, KEY)
  assert list(shown) == ['image', 'input', 'output']
  np.testing.assert_allclose(shown['image'], batch['views'][0], atol=1e-6)
  # The head begins with zeros: the mean of all bins, which is near gray.
  lightness = lab_of(batch)[..., 0]
  for name in ('input', 'output'):
    assert shown[name].shape == (4, 8, 8, 3)
    np.testing.assert_allclose(color.rgb_to_lab(shown[name])[..., 0], lightness, atol=1.0)


def test_regression_learns_the_colors_themselves():
  method = make(NAME, axis=None, loss='regression')
  seen = transformed(method, images(), KEY, STEP)
  params, state = method.init(KEY, seen)
  value, aux = jax.jit(method.loss)(params, state, seen, KEY, STEP)
  # The head begins with gray.
  expected = np.mean(np.sum((np.asarray(seen['ab']) / 110) ** 2, -1)) / 2
  assert float(value) == pytest.approx(expected, rel=1e-4)
  assert set(aux.metrics) == {'chroma', 'chroma_truth'} and aux.metrics['chroma'] == 0


@pytest.mark.parametrize(
  ('changes', 'said'),
  [
    ({'loss': 'l1'}, "loss='l1' is not one of classification, regression"),
    ({'stride': 3}, 'stride=3 must be a power of two'),
    ({'uniform': 0.0}, r'uniform=0.0 must be in \(0, 1\]'),
    ({'neighbors': 76}, 'neighbors=76 are more than the 75 bins'),
    ({'grid': -1}, 'grid=-1 must be positive'),
    ({'setting': {'mean': (0.5,)}}, 'these have 1'),
  ],
)
def test_settings_out_of_range(changes, said):
  with pytest.raises(ValueError, match=said):
    make(NAME, axis=None, **changes)
