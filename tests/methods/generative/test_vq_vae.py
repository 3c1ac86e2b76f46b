"""VQ-VAE: the loss from its parts, who moves the codebook, restarts, codes as an output."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from byoljax.methods.generative import codec
from byoljax.models import quantizers
from byoljax.models.net import stack
from tests.methods.test_contract import batch_of, make

NAME, STEP, KEY = 'vq_vae', jnp.int32(0), jax.random.key(0)
VIEW = batch_of(NAME, rows=6)
SEEN = (codec.LATENTS, codec.VECTORS, codec.QUANTIZED)


@functools.cache
def made(decay=0.9):
  method = make(NAME, axis=None, decay=decay, beta=0.5)
  learn = jax.jit(jax.value_and_grad(method.loss, has_aux=True))
  params, state = method.init(jax.random.key(1), VIEW)
  watched = stack(method.net.parts, (*SEEN, 'map'), method.net.reads)
  outputs = jax.jit(lambda: watched.apply(params, state.bn, VIEW['views'][0], train=True)[0])()
  return method, params, state, outputs, learn(params, state, VIEW, KEY, STEP)


@pytest.mark.parametrize('decay', [0.9, pytest.param(0.0, marks=pytest.mark.slow)])
def test_the_loss_and_who_moves_what(decay):
  _, params, state, outputs, ((value, aux), gradient) = made(decay)
  z, e, codes = (np.asarray(outputs[n]) for n in (codec.LATENTS, codec.VECTORS, 'codes'))
  book = np.asarray(quantizers.codebook_of(params['quantizer'], state.bn['quantizer']))
  np.testing.assert_array_equal(e.reshape(6, -1, 4), book[codes.astype(int)])
  error = ((np.asarray(outputs['output']) - VIEW['views'][0]) ** 2).mean()
  distance = ((z - e) ** 2).mean()
  weight = 0.5 if decay else 1.5
  assert float(value) == pytest.approx(error + weight * distance, rel=1e-5)
  counts = np.bincount(codes.astype(int).ravel(), minlength=12)
  assert float(aux.metrics['codes_used']) == (counts > 0).sum()
  after = aux.method_state.bn['quantizer']
  own = decay or 0.99
  np.testing.assert_allclose(after['counts'], own + (1 - own) * counts, rtol=1e-5)
  if decay:
    sums = np.zeros_like(book)
    np.add.at(sums, codes.astype(int).ravel(), z.reshape(-1, 4))
    expected = own * np.asarray(state.bn['quantizer']['sums']) + (1 - own) * sums
    # Sums of up to 96 numbers around 1 in float32: 1e-6 seen.
    np.testing.assert_allclose(after['sums'], expected, atol=5e-6)
    assert 'codebook' not in params['quantizer']
  else:
    moved = np.zeros_like(book)
    np.add.at(moved, codes.astype(int).ravel(), (e - z).reshape(-1, 4))
    np.testing.assert_allclose(gradient['quantizer']['codebook'], 2 * moved / z.size, atol=1e-6)
  assert all(np.any(leaf) for leaf in jax.tree.leaves(gradient['encoder']['Conv_0']))


@pytest.mark.parametrize('decay', [0.9, 0.0])
def test_micro_batches_move_the_codebook_as_far_as_one_batch(decay):
  method = make(NAME, axis=None, accumulate=4, decay=decay)
  quantizer = codec.module_of(method.net, codec.QUANTIZER)
  maps = jax.random.normal(KEY, (2, 2, 2, 8))  # 8 vectors.
  variables = quantizer.init(KEY, maps, train=False)
  for _ in range(4):
    _, moved = quantizer.apply(variables, maps, train=True, mutable=['batch_stats'])
    variables = variables | moved
  own = decay or 0.99
  expected = own * 12 + (1 - own) * 8
  assert float(variables['batch_stats']['counts'].sum()) == pytest.approx(expected, rel=1e-5)


def test_the_decoders_gradient_reaches_the_encoder_unchanged():
  method, params, state, outputs, (_, gradient) = made()
  z, e = outputs[codec.LATENTS], outputs[codec.VECTORS]

  def error(vectors):
    image = codec.decode(method.net, params, state.bn, vectors)
    return ((image - VIEW['views'][0]) ** 2).mean()

  at_vectors = jax.jit(jax.grad(error))(outputs[codec.QUANTIZED])
  at_latents = at_vectors + 0.5 * 2 * (z - e) / z.size
  by_hand = np.einsum('bhwc,bhwd->cd', outputs['map'], at_latents)
  found = gradient['quantizer']['latents_conv']['kernel'][0, 0]
  # Sums over 96 places: 1e-7 seen, of entries of 1e-2.
  np.testing.assert_allclose(found, by_hand, atol=1e-6)


@pytest.mark.parametrize('decay', [0.9, pytest.param(0.0, marks=pytest.mark.slow)])
def test_dead_codes_start_anew(decay):
  method, params, _, _, ((_, aux), _) = made(decay)
  state = aux.method_state
  counts = np.where(np.arange(12) < 3, 0.0, 2.0).astype(np.float32)
  own = state.bn['quantizer'] | {'counts': jnp.asarray(counts)}
  state = state.replace(bn=state.bn | {'quantizer': own})
  moved, after, metrics = method.post_step(params, state, STEP)
  assert float(metrics['codes_restarted']) == 3
  before = quantizers.codebook_of(params['quantizer'], own)
  book = quantizers.codebook_of(moved['quantizer'], after.bn['quantizer'])
  # Laplace's smoothing moves codes by a share of 1e-5 of them.
  np.testing.assert_allclose(book[:3], state.rows[:3], rtol=1e-4)
  np.testing.assert_allclose(book[3:], before[3:], rtol=1e-4)
  np.testing.assert_allclose(after.bn['quantizer']['counts'][:3], counts.mean(), rtol=1e-6)


def test_codes_decode_to_what_the_network_puts_out():
  method, params, state, outputs, _ = made()
  codes = outputs['codes'].astype(jnp.int32).reshape(6, 4, 4)
  vectors = codec.vectors_of(params, state.bn, codes)
  image = codec.decode(method.net, params, state.bn, vectors)
  # The encoder alone has batch statistics.
  np.testing.assert_allclose(image, outputs['output'], atol=1e-5)


@pytest.mark.parametrize(
  ('changes', 'said'),
  [
    ({'codes': 1}, 'codes=1'),
    ({'decay': 1.0}, 'decay=1.0'),
    ({'beta': -1}, 'beta=-1'),
    ({'beta': float('nan')}, 'beta=nan'),
    ({'restart': 1.0}, 'restart=1.0'),
    ({'decoder': 'codecs'}, "unknown decoder 'codecs'.*did you mean 'codec'"),
  ],
)
def test_settings_out_of_range(changes, said):
  with pytest.raises(ValueError, match=said):
    make(NAME, axis=None, **changes)
