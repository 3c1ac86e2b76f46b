"""The term between BYOL and SimCLR: its formula in float64, and SimCLR's loss at its end."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from byoljax.losses import bridge, contrastive, regression

P, OWN, OTHER = np.random.default_rng(0).normal(size=(3, 5, 4)).astype(np.float32)


def test_dispersion_by_its_formula():
  p, own, other = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (P, OWN, OTHER))
  alpha, terms = 0.3, []
  for i in range(5):
    same_view = sum(np.exp(p[i] @ own[j] / alpha) for j in range(5) if j != i)
    terms.append(np.log(same_view + sum(np.exp(p[i] @ other[j] / alpha) for j in range(5))))
  found = jax.jit(bridge.dispersion, static_argnums=3)(P, OWN, OTHER, alpha)
  # float32: ten exponents of up to 3.3, each rounded by 6e-8 of that, five times.
  np.testing.assert_allclose(found, 2 * alpha * np.mean(terms), rtol=1e-6)


def test_with_a_weight_of_one_it_is_simclrs_loss():
  """phi = psi = z of one network: -2 cos and the term are 2 alpha times NT-Xent."""

  @jax.jit
  def both(first, second):
    negatives = bridge.dispersion(first, first, second, 0.2)
    own, _ = contrastive.nt_xent(first, second, 0.2)
    return regression.cosine_regression(first, second) - 2.0 + negatives, 0.4 * jnp.mean(own)

  np.testing.assert_allclose(*both(P, OTHER), rtol=2e-6)  # As above, of two sums.


def test_dispersion_of_two_shapes_is_refused():
  with pytest.raises(ValueError, match='both views of one shape'):
    bridge.dispersion(P, OWN[:3], OTHER, 0.3)
