"""PixelCNN as a method: what it is told, likelihoods that sum to one, samples, bad settings."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from byoljax.length import Length
from byoljax.method import Setting, transformed
from byoljax.methods import METHODS
from byoljax.models.pixelcnn import PixelCNN, Size
from byoljax.ops import sampling
from byoljax.ops.sampling import Sampling
from tests.methods.test_contract import TinyEncoder, batch_of, make

NAME = 'pixelcnn'
KEY, STEP = jax.random.key(0), jnp.int32(0)


def seen(**changes):
  setting = {'mean': (0.5, 0.4, 0.3), 'std': (0.2, 0.25, 0.3)}
  method = make(NAME, axis=None, setting=setting, **changes)
  batch = batch_of(NAME)
  batch['views'] = tuple(0.5 * view for view in batch['views'])
  return method, batch, transformed(method, batch, KEY, STEP)


def test_the_network_sees_the_numbers_that_it_predicts():
  _, given, batch = seen(levels=8)
  mean, std = np.array([0.5, 0.4, 0.3]), np.array([0.2, 0.25, 0.3])
  pixels = np.clip(given['views'][0].astype(np.float64) * std + mean, 0, 1)
  numbers = np.round(pixels * 255).astype(int) // 32
  np.testing.assert_array_equal(batch['numbers'], numbers)
  np.testing.assert_allclose(batch['views'][0], (numbers / 7 - mean) / std, atol=1e-5)


def test_knowing_nothing_costs_the_bits_of_a_number():
  method, _, batch = seen(levels=256)
  params, state = method.init(KEY, batch)
  value, aux = method.loss(params, state, batch, KEY, STEP)
  assert float(aux.metrics['bits_per_dim']) == pytest.approx(8.0, rel=1e-6)
  assert float(value) == pytest.approx(np.log(256), rel=1e-6)


def two_by_two(levels):
  """Of gray images of 2 x 2 pixels."""

  def encoder(bn_axis, bn_groups=0):
    del bn_axis, bn_groups
    return PixelCNN(Size(4, 1, True, first=3), colors=1)

  setting = Setting(Length(9, 1, 1), mean=(0.5,), std=(0.25,))
  return METHODS[NAME](encoder, setting, levels=levels, hidden=4)


def test_probabilities_of_all_images_sum_to_one_and_samples_have_them():
  levels, side = 3, 2
  method = two_by_two(levels)
  images = np.array(list(itertools.product(range(levels), repeat=side * side)))
  pixels = (images.reshape(-1, side, side, 1) / (levels - 1) - 0.5) / 0.25
  batch = transformed(method, {'views': (jnp.asarray(pixels, jnp.float32),)}, KEY, STEP)
  params, state = method.init(KEY, batch)
  noise = iter(jax.random.split(jax.random.key(1), 100))
  params = jax.tree.map(lambda x: 0.7 * jax.random.normal(next(noise), x.shape), params)

  def log_probability(view, numbers):
    one = {'views': (view[None],), 'numbers': numbers[None]}
    return -method.loss(params, state, one, KEY, STEP)[0] * side * side

  chances = np.exp(jax.jit(jax.vmap(log_probability))(batch['views'][0], batch['numbers']))
  assert chances.sum() == pytest.approx(1.0, rel=1e-5)
  count = 4000
  draw = jax.jit(lambda key: method.sample(params, state, key, None, Sampling(count, side)))
  drawn = np.round(np.asarray(draw(KEY)) * (levels - 1)).astype(int).reshape(count, -1)
  which = drawn @ levels ** np.arange(side * side)[::-1]
  found = np.bincount(which, minlength=len(images)) / count
  # Five standard errors of each share.
  assert np.all(np.abs(found - chances) < 5 * np.sqrt(chances / count) + 1 / count)


def test_samples_are_those_of_whole_passes():
  """Of the most probable values, computed without cutting out what a pixel depends on."""
  method, _, batch = seen(levels=8)
  params, state = method.init(KEY, batch)
  kernel = params['decoder']['logits']['kernel']
  params['decoder']['logits']['kernel'] = jax.random.normal(KEY, kernel.shape)
  settings = Sampling(2, 8, temperature=0.5)
  found = np.round(np.asarray(method.sample(params, state, KEY, None, settings)) * 7)
  mean, std = np.array([[[[0.5, 0.4, 0.3]]]]), np.array([[[[0.2, 0.25, 0.3]]]])

  @jax.jit
  def logits(numbers):
    images = (numbers / 7 - mean) / std
    return method.net.apply(params, state.bn, images, train=False)[0]['logits']

  keys = sampling.keys(KEY, 2)
  # Given the right beginning, each number is the one that a whole pass draws.
  whole = logits(jnp.asarray(found, jnp.float32))
  for y, x, color in itertools.product((0, 3, 7), (0, 4, 7), range(3)):
    place = (y * 8 + x) * 3 + color
    drawn = sampling.draw(keys, jnp.int32(place), whole[:, y, x, color], settings)
    np.testing.assert_array_equal(found[:, y, x, color], drawn)


@pytest.mark.parametrize(
  ('changes', 'said'),
  [
    ({'levels': 1}, 'levels=1'),
    ({'levels': 257}, 'levels=257'),
    ({'hidden': 0}, 'hidden=0'),
  ],
)
def test_settings_out_of_range(changes, said):
  with pytest.raises(ValueError, match=said):
    make(NAME, axis=None, **changes)


def test_only_what_sees_nothing_ahead_can_predict():
  with pytest.raises(ValueError, match=r'encoder\.name one of pixelcnn, '):
    METHODS[NAME](TinyEncoder, Setting(Length(8, 1, 1)))


def test_there_are_no_classes_to_ask_for():
  method = make(NAME, axis=None)
  with pytest.raises(ValueError, match='without classes'):
    method.sample(None, None, KEY, jnp.zeros(2, jnp.int32), Sampling(2, 8))
