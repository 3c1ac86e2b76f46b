"""Counting: what the network sees, that wholes are made smaller in several ways, bad settings."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from byoljax.data.augment import quarters
from byoljax.method import transformed
from byoljax.methods.pretext import classification, counting
from tests.methods.test_contract import batch_of, make


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
