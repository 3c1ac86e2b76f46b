"""The discrete VAE: likelihood and divergence by hand, schedules, the relaxed draw at its ends."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from byoljax.losses import codecs as losses
from byoljax.methods.generative import codec
from byoljax.models import quantizers
from tests.methods.test_contract import batch_of, make

NAME, KEY = 'dvae', jax.random.key(0)
BATCH = batch_of(NAME, rows=6)


def test_the_likelihood_is_a_density():
  """Against the formula in float64, and its integral over (0, 1)."""
  rng = np.random.default_rng(0)
  mu, log_scale = rng.normal(size=(2, 50))
  x = rng.uniform(0.1, 0.9, 50)
  scale, logit = np.exp(log_scale), np.log(x / (1 - x))
  density = np.exp(-np.abs(logit - mu) / scale) / (2 * scale * x * (1 - x))
  found = losses.logit_laplace(jnp.asarray(mu), jnp.asarray(log_scale), jnp.asarray(x))
  # float32 logits of up to 2.2, divided by scales from 0.1 on: 4e-6 seen.
  np.testing.assert_allclose(found, -np.log(density), rtol=2e-5, atol=2e-5)
  places = (np.arange(20000) + 0.5) / 20000
  total = np.exp(-np.asarray(losses.logit_laplace(0.3, -1.0, jnp.asarray(places)))).mean()
  assert total == pytest.approx(1.0, abs=1e-3)
  pixels = jnp.linspace(0, 1, 7)
  np.testing.assert_allclose(losses.unsqueezed(losses.squeezed(pixels)), pixels, atol=1e-6)


def test_the_divergence_from_the_uniform_distribution():
  logits = np.random.default_rng(1).normal(size=(3, 5))
  shares = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
  found = losses.divergence_from_uniform(jnp.asarray(logits))
  np.testing.assert_allclose(found, (shares * np.log(5 * shares)).sum(-1), rtol=1e-5)
  assert float(losses.divergence_from_uniform(jnp.zeros(8))) == pytest.approx(0.0, abs=1e-6)
  sure = losses.divergence_from_uniform(100.0 * jnp.eye(8)[0])
  assert float(sure) == pytest.approx(math.log(8), rel=1e-6)


@functools.cache
def made():
  method = make(NAME, axis=None, tau=1.0, tau_end=0.25, tau_length='10 steps', kl_weight=2.0)
  params, state = jax.jit(method.init)(jax.random.key(1), BATCH)
  learn = jax.jit(jax.value_and_grad(method.loss, has_aux=True))
  return method, params, state, [learn(params, state, BATCH, KEY, jnp.int32(s)) for s in (0, 1, 20)]


def test_the_loss_and_its_schedules():
  *_, found = made()
  # Halfway through the 2 steps of the warm-up, the weight is half of its end.
  for ((value, aux), gradient), weight in zip(found, (0.0, 1.0, 2.0), strict=True):
    parts = aux.metrics
    expected = float(parts['loss/likelihood']) + weight * float(parts['loss/divergence']) / 192
    assert float(value) == pytest.approx(expected, rel=1e-5)
    assert all(np.any(leaf) for leaf in jax.tree.leaves(gradient['quantizer']))
    assert np.any(gradient['encoder']['Conv_0']['kernel'])
  taus = [float(aux.metrics['temperature']) for (_, aux), _ in found]
  tenth = 0.25 + 0.75 * 0.5 * (1 + math.cos(math.pi / 10))
  np.testing.assert_allclose(taus, [1.0, tenth, 0.25], rtol=1e-6)


@pytest.mark.slow
def test_the_relaxed_draw_becomes_a_code():
  module = quantizers.GumbelQuantizer(5, 3)
  x = jax.random.normal(jax.random.key(2), (4, 2, 2, 6))
  variables = module.init(jax.random.key(3), x, train=False)
  params = jax.tree.map(jnp.asarray, dict(quantizers.nn.meta.unbox(variables))['params'])
  noise = jax.random.gumbel(jax.random.key(4), (4, 2, 2, 5))

  def run(**drawn):
    codes, seen = module.apply(
      {'params': params}, x, train=True, mutable=['intermediates'], **drawn
    )
    return codes, {name: value[0] for name, value in seen['intermediates'].items()}

  codes, plain = run()
  np.testing.assert_array_equal(
    plain['quantized'].reshape(4, 4, 3), params['codebook'][codes.reshape(4, 4)]
  )
  _, cold = run(noise=noise, temperature=1e-4)
  drawn = np.argmax(plain['latents'] + noise, -1)
  np.testing.assert_allclose(cold['quantized'], params['codebook'][drawn], atol=1e-4)
  assert np.any(drawn != np.argmax(plain['latents'], -1))
  _, warm = run(noise=noise, temperature=1e4)
  np.testing.assert_allclose(
    warm['quantized'], np.broadcast_to(params['codebook'].mean(0), (4, 2, 2, 3)), atol=1e-2
  )


def test_codes_decode_to_what_the_network_puts_out():
  method, params, state, _ = made()
  shown = method.pictures(params, state, BATCH, KEY)
  codes = method.net.apply(params, state.bn, BATCH['views'][0], train=False)[0]['codes']
  codes = codes.astype(jnp.int32).reshape(6, 4, 4)
  image = method.decode(params, state.bn, codes)
  np.testing.assert_allclose(image, shown['output'], atol=1e-5)
  assert codec.module_of(method.net, 'quantizer').codes == 12


def test_changes_that_the_run_does_not_reach_are_told():
  durations = {'tau_length': '100 %', 'kl_warmup': '20 steps'}
  assert make(NAME, axis=None, **durations).notes == ()
  notes = make(NAME, axis=None, tau_length='21 steps', kl_warmup='5000 steps').notes
  assert ['tau_length' in note for note in notes] == [True, False]
  assert "kl_warmup='5000 steps', and the run has 20 steps" in notes[1]


@pytest.mark.parametrize(
  ('changes', 'said'),
  [
    ({'codes': 1}, 'codes=1'),
    ({'tau_end': 0.0}, 'tau_end=0.0'),
    ({'kl_weight': -1.0}, 'kl_weight=-1.0'),
    ({'kl_weight': float('nan')}, 'kl_weight=nan'),
    ({'tau': float('inf')}, 'tau=inf'),
  ],
)
def test_settings_out_of_range(changes, said):
  with pytest.raises(ValueError, match=said):
    make(NAME, axis=None, **changes)
