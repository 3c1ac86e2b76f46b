"""Losses of codecs against hand-computed values and float64 NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from byoljax.losses import codecs

Z, E = (np.random.default_rng(seed).normal(size=(2, 3, 4)) for seed in (0, 1))


def test_each_term_has_a_gradient_for_one_side_alone():
  z, e = jnp.asarray(Z), jnp.asarray(E)
  expected = ((Z - E) ** 2).mean()
  for loss, moved, kept in ((codecs.commitment, 0, 1), (codecs.codebook, 1, 0)):
    value, gradients = jax.value_and_grad(loss, (0, 1))(z, e)
    assert float(value) == pytest.approx(expected, rel=1e-6)
    sign = 1 if moved == 0 else -1
    # Rounding of float32 numbers around 1: 1e-8 seen.
    np.testing.assert_allclose(gradients[moved], sign * 2 * (Z - E) / Z.size, atol=1e-7)
    np.testing.assert_array_equal(gradients[kept], np.zeros_like(Z))
  with pytest.raises(ValueError, match='must have one shape'):
    codecs.commitment(z, e[:1])
