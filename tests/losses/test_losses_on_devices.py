"""One device = four devices: value and gradient of every loss that looks beyond its device.

Through a shared linear layer and by the step's own recipe, pmean(grad(pmean(loss))).
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from byoljax.devices import collectives, mapping
from byoljax.losses import bridge, classification, clustering, contrastive, redundancy, triplet
from byoljax.ops import ring, shuffle, sinkhorn

KEY = jax.random.key(0)
X = jax.random.normal(KEY, (2, 16, 12))
WEIGHTS = jax.random.normal(jax.random.fold_in(KEY, 1), (12, 6))
PARTS = np.random.default_rng(0).permutation(16).reshape(2, 8)
QUEUE = ring.init(jax.random.fold_in(KEY, 2), 9, 6).items
PROTOTYPES = ring.init(jax.random.fold_in(KEY, 3), 5, 6).items


def nt_xent(a, b, axis, **options):
  return jnp.mean(jnp.stack(contrastive.nt_xent(a, b, 0.2, axis=axis, **options)))


def in_batch(a, b, axis):
  offset = collectives.axis_index(axis) * a.shape[0]
  return jnp.mean(
    contrastive.info_nce_in_batch(a, collectives.all_gather(b, axis), 0.2, offset=offset)
  )


def swapped(a, b, axis):
  scores = [a @ PROTOTYPES.T, b @ PROTOTYPES.T]
  extra = QUEUE @ PROTOTYPES.T
  codes = [sinkhorn.assign(s, epsilon=0.5, iterations=3, axis=axis, extra=extra) for s in scores]
  return clustering.swapped_prediction(codes, scores, 0.1)


def gathered_triplet(a, b, axis):
  z = jnp.concatenate([collectives.all_gather(a, axis), collectives.all_gather(b, axis)])
  return triplet.triplet(z, jnp.arange(32) % 16, margin=0.5, mode='semi_hard')[0]


def labelled(a, b, axis):
  """Of the rows that have a label, of which devices have different numbers."""
  labels = jnp.where(b[:, 0] > 0.0, jnp.argmax(b, -1), -1)
  targets = classification.smoothed(labels, 6, 0.2)
  return (
    classification.cross_entropy(a, labels, axis=axis)
    + classification.soft_cross_entropy(a, targets, axis=axis)
    + classification.accuracy(a, labels, axis=axis)
  )


def shuffled(a, b, axis):
  """A loss on the rows after a device-local batch statistic in shuffled order."""
  key = jax.random.key(7)
  return jnp.mean((a - shuffle.unshuffle(2.0 * shuffle.shuffle(b, key, axis), key, axis)) ** 2)


LOSSES = {
  'classification of some': labelled,
  'nt_xent': nt_xent,
  'nt_xent in chunks': lambda a, b, axis: nt_xent(a, b, axis, chunk=7),
  'nt_xent with memory': lambda a, b, axis: nt_xent(a, b, axis, chunk=8, memory=QUEUE),
  'info_nce_in_batch': in_batch,
  'dispersion': lambda a, b, axis: bridge.dispersion(b, a, b, 0.2, axis=axis),
  'barlow_twins': lambda a, b, axis: redundancy.barlow_twins(a, b, off_diagonal=0.1, axis=axis)[0],
  'vicreg': lambda a, b, axis: redundancy.vicreg(0.1 * a, 0.1 * b, axis=axis)[0],
  'w_mse': lambda a, b, axis: redundancy.w_mse(a, b, axis=axis),
  'w_mse of parts': lambda a, b, axis: redundancy.w_mse_of_parts(
    a, b, jnp.asarray(PARTS), axis=axis
  ),
  'swapped_prediction': swapped,
  'triplet': gathered_triplet,
  'shuffle': shuffled,
}


# Others go through the same lines, with more to it.
COVERED = ('nt_xent in chunks', 'w_mse')


@pytest.mark.parametrize(
  'name', [pytest.param(n, marks=pytest.mark.slow if n in COVERED else ()) for n in LOSSES]
)
def test_four_devices_equal_one(name):
  def step(weights, batch, axis):
    def objective(weights):
      a, b = batch['x'][:, 0] @ weights, jnp.tanh(batch['x'][:, 1] @ weights)
      return collectives.pmean(LOSSES[name](a, b, axis), axis)

    value, gradient = jax.value_and_grad(objective)(weights)
    return value, collectives.pmean(gradient, axis)

  batch = {'x': X.swapaxes(0, 1)}
  value, gradient = jax.jit(lambda w, b: step(w, b, None))(WEIGHTS, batch)
  assert np.abs(gradient).max() > 1e-3
  mapped = mapping.spmd(lambda w, b: step(w, b, collectives.AXIS), donate=False)
  values, gradients = mapped(WEIGHTS, mapping.shard(batch))
  np.testing.assert_allclose(values, value, rtol=1e-5)
  np.testing.assert_allclose(gradients, gradient, rtol=1e-3, atol=2e-5)
