"""Denoising: the noises, what is compared with what, bad settings."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from byoljax.data.augment import noise
from byoljax.losses import reconstruction as losses
from byoljax.method import transformed
from tests.methods.test_contract import batch_of, make

NAME = 'denoising_autoencoder'
IMAGE = jnp.asarray(np.random.default_rng(0).uniform(0.2, 0.8, (100, 100, 3)).astype(np.float32))


def test_gaussian_noise_is_of_every_value_and_not_cut_off():
  noisy, hit = noise.gaussian(jax.random.key(0), IMAGE, 0.5)
  difference = np.asarray(noisy - IMAGE)
  assert np.all(hit) and hit.shape == (100, 100, 1) and noisy.min() < 0 and noisy.max() > 1
  # 30,000 draws: five standard errors.
  assert np.std(difference) == pytest.approx(0.5, abs=5 * 0.5 / np.sqrt(60_000))
  assert np.mean(difference) == pytest.approx(0, abs=5 * 0.5 / np.sqrt(30_000))


def test_masking_blackens_whole_pixels():
  masked, hit = noise.masking(jax.random.key(0), IMAGE, 0.25)
  np.testing.assert_array_equal(masked, np.where(hit, 0, IMAGE))
  # 10,000 pixels: five standard errors of a share.
  assert np.mean(hit) == pytest.approx(0.25, abs=5 * np.sqrt(0.25 * 0.75 / 10_000))


def test_salt_and_pepper_are_equally_many():
  spoilt, hit = noise.salt_pepper(jax.random.key(0), IMAGE, 0.4)
  values = np.asarray(spoilt)[np.asarray(hit)[..., 0]]
  np.testing.assert_array_equal(np.asarray(spoilt)[~np.asarray(hit)[..., 0]],
                                np.asarray(IMAGE)[~np.asarray(hit)[..., 0]])  # fmt: skip
  assert set(np.unique(values)) == {0.0, 1.0} and np.all(values[:, :1] == values)
  assert np.mean(hit) == pytest.approx(0.4, abs=5 * np.sqrt(0.24 / 10_000))
  assert np.mean(values) == pytest.approx(0.5, abs=5 * 0.5 / np.sqrt(4_000))


def seen(**changes):
  setting = {'mean': (0.5, 0.4, 0.3), 'std': (0.2, 0.25, 0.3)}
  method = make(NAME, axis=None, setting=setting, **changes)
  return method, transformed(method, batch_of(NAME), jax.random.key(0), jnp.int32(0))


def test_the_network_sees_the_disturbed_image_and_is_compared_with_the_clean_one():
  clean = batch_of(NAME)['views'][0]
  method, batch = seen(noise='masking', level=0.3)
  (noisy,) = batch['views']
  black = -np.array([0.5, 0.4, 0.3]) / np.array([0.2, 0.25, 0.3])
  hit = np.asarray(batch['disturbed'])
  np.testing.assert_array_equal(batch['target'], clean)
  # Twice through the normalization: values up to 3.
  np.testing.assert_allclose(noisy, np.where(hit, black, clean), atol=2e-6)
  assert not np.array_equal(hit[0], hit[1])
  params, state = method.init(jax.random.key(1), batch)
  made, _ = method.net.apply(params, state.bn, noisy, train=True)
  value, aux = method.loss(params, state, batch, jax.random.key(0), jnp.int32(0))
  # Disturbed pixels count one, the others half.
  expected = losses.squared_error(made['output'], clean, jnp.where(hit, 1.0, 0.5))
  assert float(value) == pytest.approx(float(expected), rel=1e-6)
  assert aux.embedding.shape == (len(clean), 8) and aux.metrics['psnr'] > 0


def test_emphasis_on_disturbed_pixels_alone_has_no_gradient_elsewhere():
  method, batch = seen(emphasis=(1.0, 0.0))
  params, state = method.init(jax.random.key(1), batch)

  def value(target):
    given = batch | {'target': target}
    return method.loss(params, state, given, jax.random.key(0), jnp.int32(0))[0]

  gradient = np.asarray(jax.grad(value)(jnp.asarray(batch['target'])))
  hit = np.broadcast_to(batch['disturbed'], gradient.shape)
  assert not np.any(gradient[~hit]) and np.all(gradient[hit] != 0)


def test_cross_entropy_takes_outputs_for_probabilities_of_white():
  method, batch = seen(loss='bce', noise='gaussian', emphasis=(1.0, 1.0))
  params, state = method.init(jax.random.key(1), batch)
  params['decoder']['image_conv'] = jax.tree.map(jnp.zeros_like, params['decoder']['image_conv'])
  value, _ = method.loss(params, state, batch, jax.random.key(0), jnp.int32(0))
  assert float(value) == pytest.approx(np.log(2), rel=1e-6)
  shown = method.pictures(params, state, batch_of(NAME), jax.random.key(0))
  np.testing.assert_array_equal(shown['output'], np.full_like(shown['image'], 0.5))


@pytest.mark.parametrize('kind', ['gaussian', 'masking', 'salt_pepper'])
def test_pictures_are_of_whole_images_and_of_the_key_alone(kind):
  method, batch = seen(noise=kind, emphasis=(1.0, 1.0))
  params, state = method.init(jax.random.key(1), batch)
  plain = batch_of(NAME)
  shown = method.pictures(params, state, plain, jax.random.key(2))
  assert list(shown) == ['image', 'input', 'output']
  for picture in shown.values():
    assert picture.shape == plain['views'][0].shape
    assert float(picture.min()) >= 0 and float(picture.max()) <= 1
  pixels = plain['views'][0] * np.array([0.2, 0.25, 0.3]) + np.array([0.5, 0.4, 0.3])
  np.testing.assert_allclose(shown['image'], np.clip(pixels, 0, 1), atol=1e-6)
  assert np.abs(shown['input'] - shown['image']).max() > 0.1
  again = method.pictures(params, state, plain, jax.random.key(2))
  np.testing.assert_array_equal(shown['input'], again['input'])


@pytest.mark.parametrize(
  ('changes', 'said'),
  [
    ({'noise': 'rain'}, "unknown noise 'rain'.*gaussian"),
    ({'loss': 'l1'}, "unknown loss 'l1'.*bce"),
    ({'level': 0.0}, 'level=0.0'),
    ({'level': 1.5}, 'a share is at most 1'),
    ({'emphasis': (0.0, 0.0)}, 'not both 0'),
    ({'emphasis': (1.0,)}, 'two weights'),
    ({'noise': 'gaussian', 'emphasis': (1.0, 0.5)}, 'disturbs every pixel'),
    ({'tap': 'nowhere'}, "unknown map 'nowhere'"),
    ({'decoder_width': 0}, 'decoder_width=0'),
  ],
)
def test_settings_out_of_range(changes, said):
  with pytest.raises(ValueError, match=said):
    make(NAME, axis=None, **changes)
