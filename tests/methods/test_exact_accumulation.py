"""Losses that compare images: micro-batches give the step of the whole batch.

Batch statistics are per micro-batch, so the networks here have none.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from byoljax.devices import collectives, mapping
from byoljax.length import Length
from byoljax.losses import redundancy
from byoljax.method import Setting
from byoljax.methods.joint_embedding import moco_v3, nnclr, simclr, two_projections
from byoljax.methods.pretext import multi_task, rotation
from byoljax.models import heads
from byoljax.models.net import stack
from byoljax.step import init_state, train_step
from byoljax.train.online_probe import with_online_probe
from tests.methods import test_contract as contract

ROWS = 16


def head(*features):
  return heads.MLPHead(features, norm=False, kernel_init='torch')


class Encoder(contract.TinyEncoder):
  """As in the contract, without normalization."""

  def __call__(self, x, *, train):
    return x.reshape(x.shape[0], -1)[:, :24]


def method_of(name, axis):
  encoder = ('encoder', 'embedding', Encoder(None))
  projector = ('projector', 'projection', head(16, 6))
  net = stack((encoder, projector))
  with_prediction = stack((encoder, projector, ('predictor', 'prediction', head(16, 6))))
  if name == 'simclr':
    return simclr.simclr(
      net, net, taps=('embedding', 'projection'), temperature=0.2, chunk=0, memory_size=0,
      memory_tau=lambda step: 0.9, axis=axis,
    )  # fmt: skip
  if name == 'moco_v3':
    return moco_v3.moco_v3(
      with_prediction, net, tau=lambda step: 0.9, temperature=0.2, freeze_patch_embed=False,
      axis=axis,
    )  # fmt: skip
  if name == 'nnclr':
    return nnclr.nnclr(with_prediction, queue_size=32, dim=6, temperature=0.2, axis=axis)
  if name == 'multi_task':
    turns = rotation.build(Encoder, Setting(Length(ROWS, 1, 4), axis=axis))
    pair = method_of('simclr', axis)
    parts = (multi_task.Part('pair', pair, 2.0), multi_task.Part('turns', turns, 0.5, (1,)))
    return multi_task.multi_task(parts)
  losses = {
    'barlow_twins': functools.partial(redundancy.barlow_twins, off_diagonal=0.1, axis=axis),
    'vicreg': functools.partial(redundancy.vicreg, axis=axis),
    'w_mse': lambda a, b: (redundancy.w_mse(a, b, axis=axis), {}),
  }
  return two_projections.from_projections(net, losses[name])


def steps(name, accumulate, *, axis=None, probe=False, count=2):
  """Parameters and metrics after some steps."""
  method = method_of(name, axis)
  if probe:
    method = with_online_probe(
      method,
      lambda key, x: {'w': 0.1 * jax.random.normal(key, (x.shape[1], contract.CLASSES))},
      lambda params, x: x @ params['w'],
      lambda logits, labels: (jnp.mean(logits**2), {'loss': jnp.mean(logits**2)}),
    )
  tx = optax.sgd(0.1)
  step = functools.partial(
    train_step, method=method, tx=tx, augment=lambda batch, step: batch, axis=axis,
    accumulate=accumulate,
  )  # fmt: skip
  batch = contract.batch_of('simclr', rows=ROWS)
  state = init_state(method, tx, batch, 0)
  if axis:
    step, state, batch = mapping.spmd(step), mapping.replicate(state), mapping.shard(batch)
  else:
    step = jax.jit(step)
  for _ in range(count):
    state, metrics = step(state, batch)
  return state.params, metrics


NAMES = ('simclr', 'moco_v3', 'nnclr', 'barlow_twins', 'vicreg', 'w_mse', 'multi_task')
# Others hand on to `compare` as these do.
COVERED = ('moco_v3', 'vicreg')


@pytest.mark.parametrize(
  'name', [pytest.param(n, marks=pytest.mark.slow if n in COVERED else ()) for n in NAMES]
)
def test_four_micro_batches_are_the_batch(name):
  """W-MSE's have four rows of six dimensions: by themselves they could not be whitened."""
  whole, metrics = steps(name, 1)
  parts, of_parts = steps(name, 4)
  for path, x in jax.tree_util.tree_leaves_with_path(whole):
    other = dict(jax.tree_util.tree_leaves_with_path(parts))[path]
    np.testing.assert_allclose(other, x, rtol=2e-4, atol=2e-6)
  assert metrics.keys() == of_parts.keys()
  for metric in metrics:
    assert float(of_parts[metric]) == pytest.approx(float(metrics[metric]), rel=1e-3, abs=1e-5)


def test_on_four_devices_and_with_a_probe():
  whole, metrics = steps('simclr', 1, probe=True)
  parts, of_parts = steps('simclr', 2, axis=collectives.AXIS, probe=True)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-6), whole, dict(parts)
  )
  for metric in ('loss', 'probe/loss', 'grad_norm'):
    assert float(of_parts[metric]) == pytest.approx(float(metrics[metric]), rel=1e-3)
