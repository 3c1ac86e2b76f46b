"""Counting: what the network sees, that wholes are made smaller in several ways, bad settings."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from byoljax.data.augment import quarters
from byoljax.losses import counting as losses
from byoljax.method import transformed
from byoljax.methods.pretext import classification, counting
from byoljax.models import heads
from byoljax.models.net import stack
from tests.methods.test_contract import batch_of, make
from tests.methods.test_pair_methods import Pixels


def test_a_whole_and_its_quarters():
  batch = batch_of('counting')
  made = transformed(make('counting', axis=None), batch, jax.random.key(0), jnp.int32(0))
  whole, *parts = classification.per_image(made['views'][0], len(batch['index']))
  np.testing.assert_array_equal(np.stack(parts), quarters.quarters(batch['views'][0]))
  matrices = np.stack([quarters.halving_matrix(kernel, 8) for kernel in counting.KERNELS])
  candidates = np.stack(
    [quarters.halved(batch['views'][0], matrices, np.full(32, k)) for k in range(len(matrices))]
  )
  error = np.abs(candidates - np.asarray(whole)).max((2, 3, 4))
  assert error.min(0).max() < 1e-5, 'each by one of the kernels'
  assert set(error.argmin(0)) == set(range(len(matrices))), 'and all of them occur'


def test_counts_are_not_negative_and_zero_ones_cost_the_margin():
  method, batch = make('counting', axis=None), batch_of('counting')
  made = transformed(method, batch, jax.random.key(0), jnp.int32(0))
  params, state = method.init(jax.random.key(0), made)
  assert float(method.embed(params, state, batch['views'][0])['projection'].min()) == 0.0
  params['projector'] = jax.tree.map(jnp.zeros_like, params['projector'])
  value, aux = method.loss(params, state, made, jax.random.key(0), jnp.int32(0))
  assert float(value) == 10.0 and float(aux.metrics['mean_count']) == 0.0
  assert aux.embedding.shape[0] == len(batch['index'])


def test_the_loss_is_that_of_the_whole_against_the_sum_of_its_quarters():
  """Counts by hand, relu(x W + b), of one whole and four quarters of three images."""
  head = heads.MLPHead((4,), norm=False, trunk=True)
  net = stack((('encoder', 'embedding', Pixels()), ('projector', 'projection', head)))
  method = counting.counting(net, margin=3.0)
  views = np.random.default_rng(0).normal(size=(5 * 3, 1, 2, 3)).astype(np.float32)
  batch = {'views': (views,), 'index': np.arange(3)}
  params, state = method.init(jax.random.key(0), batch)
  value, aux = jax.jit(method.loss)(params, state, batch, jax.random.key(0), jnp.int32(0))
  first = jax.tree.map(np.asarray, params['projector']['linear1'])
  counts = np.maximum(views.reshape(5, 3, 6) @ first['kernel'] + first['bias'], 0)
  wanted, _ = jax.jit(losses.counting, static_argnames='margin')(counts[0], counts[1:], margin=3.0)
  assert float(value) == pytest.approx(float(wanted), rel=1e-5)
  assert float(aux.metrics['mean_count']) == pytest.approx(counts[0].sum(-1).mean(), rel=1e-5)
  np.testing.assert_array_equal(aux.embedding, views[:3].reshape(3, 6))


@pytest.mark.parametrize(
  ('changes', 'said'),
  [
    ({'margin': 0.0}, 'margin=0.0 must be positive'),
    ({'kernels': ()}, 'kernels=\\(\\) is empty'),
    ({'kernels': ('sinc',)}, "'sinc' is not one of"),
    ({'projector': ()}, 'projector='),
  ],
)
def test_settings_out_of_range(changes, said):
  with pytest.raises(ValueError, match=said):
    make('counting', axis=None, **changes)
