"""The loss of images without labels: values by hand, in float64, and what gets a gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from byoljax.losses import pseudo_labels

WEAK = np.log([[0.96, 0.03, 0.01], [0.5, 0.3, 0.2], [0.02, 0.02, 0.96], [0.04, 0.95, 0.01]])
STRONG = np.log([[0.2, 0.7, 0.1], [0.1, 0.1, 0.8], [0.25, 0.25, 0.5], [0.6, 0.3, 0.1]])


def test_values_by_hand():
  labels = pseudo_labels.confident_labels(jnp.asarray(WEAK), 0.94)
  assert labels.tolist() == [0, -1, 2, 1]
  found = pseudo_labels.pseudo_label_loss(jnp.asarray(WEAK), jnp.asarray(STRONG), 0.94)
  # Four images share the sum, also the one that is left out.
  np.testing.assert_allclose(found, -np.log(0.2 * 0.5 * 0.3) / 4, rtol=1e-6)
  assert pseudo_labels.pseudo_label_loss(jnp.asarray(WEAK), jnp.asarray(STRONG), 1.0) == 0


def test_against_float64():
  rng = np.random.default_rng(0)
  weak, strong = 5 * rng.normal(size=(2, 64, 7))
  chances = np.exp(weak) / np.exp(weak).sum(1, keepdims=True)
  kept = chances.max(1) >= 0.7
  assert 10 < kept.sum() < 54
  log_q = strong - np.log(np.exp(strong).sum(1, keepdims=True))
  expected = np.mean(kept * -log_q[np.arange(64), chances.argmax(1)])
  found = pseudo_labels.pseudo_label_loss(jnp.asarray(weak), jnp.asarray(strong), 0.7)
  np.testing.assert_allclose(found, expected, rtol=1e-6)  # measured: 1e-7


def test_only_the_strong_view_learns():
  weak, strong = (jnp.asarray(x, jnp.float32) for x in (WEAK, STRONG))
  of_weak, of_strong = jax.grad(pseudo_labels.pseudo_label_loss, (0, 1))(weak, strong, 0.94)
  assert not np.any(of_weak)
  assert not np.any(of_strong[1]) and np.all(np.any(of_strong[np.array([0, 2, 3])], axis=1))
  with pytest.raises(ValueError, match='two arrays of logits'):
    pseudo_labels.pseudo_label_loss(weak, strong[:2], 0.9)
