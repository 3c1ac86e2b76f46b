"""Networks and losses of the generative methods against PyTorch's, written from the papers.

Weights and inputs are drawn by name as in tests/golden/make_generative.py.
"""

import functools
import math
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from byoljax.losses import adversarial, likelihoods
from byoljax.losses import codecs as losses
from byoljax.models import pixelcnn, pixelcnn_pp
from byoljax.models.net import stack
from byoljax.models.token_transformer import Size, TokenTransformer
from byoljax.ops import codebook
from tests.paths import GOLDEN

sys.path.append(str(GOLDEN))
import philox  # noqa: E402

SIDE, BATCH, LEVELS = 6, 2, 5
# The largest error found, relative to 1 + |value|, is 2.1e-7 (gated PixelCNN), times 5.
close = functools.partial(np.testing.assert_allclose, rtol=1.1e-6, atol=1.1e-6)


@pytest.fixture(scope='module')
def golden():
  return dict(np.load(GOLDEN / 'generative.npz'))


def path_of(keys):
  return '/'.join(key.key for key in keys)


def drawn(case, tree):
  def leaf(keys, value):
    path, shape = path_of(keys), value.shape
    bound = 1.7 / (math.prod(shape[:-1]) if len(shape) > 1 else 4) ** 0.5
    return philox.uniform(f'{case}/{path}', shape, -bound, bound)

  return jax.tree.map_with_path(leaf, tree)


def numbers(case, levels, *shape):
  return philox.uniform(f'{case}/numbers', shape, 0, levels).astype(np.int32)


def compare(case, golden, params, objective):
  """A mean output, a loss and its gradients, those that the file has."""
  (value, output), gradients = jax.jit(jax.value_and_grad(objective, has_aux=True))(params)
  close(value, golden[f'{case}/loss'])
  close(np.asarray(output).mean(0), golden[f'{case}/output'])
  found = {path_of(keys): leaf for keys, leaf in jax.tree.leaves_with_path(gradients)}
  stored = [name for name in golden if name.startswith(f'{case}/gradient/')]
  assert len(stored) >= 2
  for name in stored:
    close(found[name.removeprefix(f'{case}/gradient/')], golden[name])


def raster(case, golden, encoder, head, nll):
  parts = (('encoder', 'embedding', encoder), ('decoder', 'logits', head))
  net = stack(parts, reads={'decoder': 'features'})
  x = philox.uniform(f'{case}/image', (BATCH, SIDE, SIDE, 3), -1.0, 1.0)
  shapes, stats = jax.eval_shape(net.init, jax.random.key(0), x)
  truth = numbers(case, LEVELS, BATCH, SIDE, SIDE, 3)

  def objective(params):
    made = net.apply(params, stats, x, train=True)[0]['logits']
    return nll(made, truth).mean(), made

  compare(case, golden, drawn(case, shapes), objective)


@pytest.mark.parametrize('gated', [False, True])
def test_pixelcnn(gated, golden):
  encoder = pixelcnn.PixelCNN(pixelcnn.Size(6, 1, gated, first=5))
  head = pixelcnn.PixelHead(LEVELS, 9)
  name = 'gated_pixelcnn' if gated else 'pixelcnn'
  raster(name, golden, encoder, head, likelihoods.categorical_nll)


def test_pixelcnn_pp_and_its_mixtures(golden):
  encoder = pixelcnn_pp.PixelCNNpp(pixelcnn_pp.Size(4, 1, 2))
  nll = functools.partial(likelihoods.logistics_nll, levels=LEVELS)
  raster('pixelcnn_pp', golden, encoder, pixelcnn_pp.MixtureHead(2), nll)


def test_gpt(golden):
  case, length, vocabulary = 'token_transformer', 7, 5
  model = TokenTransformer(Size(8, 2, 2), vocabulary, length)
  tokens = numbers(case, vocabulary, BATCH, length)
  shapes = nn.meta.unbox(jax.eval_shape(model.init, jax.random.key(0), tokens))['params']

  def objective(params):
    features = model.apply({'params': params}, tokens).features
    return likelihoods.categorical_nll(features[..., :vocabulary], tokens).mean(), features

  compare(case, golden, drawn(case, shapes), objective)


def draw(name, *shape, low=-1.0, high=1.0):
  return philox.uniform(name, shape, low, high)


def test_losses_of_codebooks_and_of_the_discriminator(golden):
  z, book, target = draw('vq/z', 12, 3), draw('vq/book', 5, 3), draw('vq/target', 12, 3)

  def objective(z, book):
    chosen = codebook.nearest(jax.lax.stop_gradient(z), jax.lax.stop_gradient(book))
    vectors = book[chosen]
    value = jnp.abs(codebook.straight_through(z, vectors) - target).mean()
    value += 0.25 * losses.commitment(z, vectors) + losses.codebook(z, vectors)
    return value, chosen

  (value, codes), gradients = jax.jit(jax.value_and_grad(objective, (0, 1), has_aux=True))(z, book)
  close(value, golden['vq/loss'])
  np.testing.assert_array_equal(codes, golden['vq/codes'])
  for name, gradient in zip(('z', 'book'), gradients, strict=True):
    close(gradient, golden[f'vq/gradient/{name}'])
  weight = jax.jit(losses.adaptive_weight)(
    draw('vq/above', 4, 5), draw('vq/below', 4, 5, low=-0.1, high=0.1)
  )
  close(weight, golden['vq/adaptive_weight'])
  real, fake = draw('vq/real', 20, low=-2, high=2), draw('vq/fake', 20, low=-2, high=2)
  close(jax.jit(adversarial.hinge_discriminate)(real, fake), golden['vq/hinge'])
  close(jax.jit(adversarial.hinge_fool)(fake), golden['vq/fool'])


def test_losses_of_the_discrete_vae(golden):
  mu, log_scale = draw('dvae/mu', 30), draw('dvae/log_scale', 30)
  x = draw('dvae/x', 30, low=0.1, high=0.9)
  likelihood = lambda mu, log_scale: losses.logit_laplace(mu, log_scale, x).mean()  # noqa: E731
  value, (of_mu, of_scale) = jax.jit(jax.value_and_grad(likelihood, (0, 1)))(mu, log_scale)
  close(value, golden['dvae/likelihood'])
  close(of_mu, golden['dvae/gradient/mu'])
  close(of_scale, golden['dvae/gradient/log_scale'])
  divergence = lambda logits: losses.divergence_from_uniform(logits).mean()  # noqa: E731
  logits = draw('dvae/logits', 6, 7, low=-2, high=2)
  value, gradient = jax.jit(jax.value_and_grad(divergence))(logits)
  close(value, golden['dvae/divergence'])
  close(gradient, golden['dvae/gradient/logits'])
