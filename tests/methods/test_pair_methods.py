"""Methods that compare views: their losses on a network without noise, against NumPy by hand."""

import functools
import types

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from byoljax.length import Length
from byoljax.losses import bridge as bridge_loss
from byoljax.losses import redundancy
from byoljax.method import Setting
from byoljax.methods.joint_embedding import (
  barlow_twins,
  bridge,
  dino,
  moco,
  moco_v3,
  simclr,
  simsiam,
  swav,
)
from byoljax.methods.supervised import distillation
from byoljax.models import heads
from byoljax.models.net import Statistics, stack
from byoljax.ops import sinkhorn
from tests.methods.test_memory_methods import (
  BATCH,
  DIM,
  TURN,
  at,
  batch_of,
  log_softmax,
  rows_of,
  toy,
  unit,
)

KEEP = lambda step: 0.9  # noqa: E731


class Pixels(nn.Module):
  """An encoder of nothing but the pixels."""

  @nn.compact
  def __call__(self, x, *, train):
    del train
    return x.reshape(len(x), -1)


def projections(batch):
  return [rows_of(view) for view in batch['views']]


def predictions(batch):
  return [z @ TURN.astype(np.float64) for z in projections(batch)]


def test_simsiam_draws_each_prediction_to_the_other_projection():
  batch = batch_of()
  (z_first, z_second), (p_first, p_second) = projections(batch), predictions(batch)
  wanted = -0.5 * ((p_first * z_second).sum(1).mean() + (p_second * z_first).sum(1).mean())
  assert at(simsiam.simsiam(toy()), batch)[0] == pytest.approx(wanted, rel=1e-5)


def test_no_gradient_reaches_simsiams_projections():
  """Of -cos(T W x, sg(W y)) at W = 1, both directions halved; without the stop there is more."""
  batch = batch_of()

  def gradient(stops):
    method = simsiam.simsiam(toy(), stop_gradient=stops)
    params, state = method.init(jax.random.key(0), batch)
    loss = lambda params: method.loss(params, state, batch, jax.random.key(0), 0)[0]  # noqa: E731
    return np.asarray(jax.jit(jax.grad(loss))(params)['encoder']['kernel'])

  def by_hand(x, y):
    """x / |x| is the prediction before the turn: the slope of cos(x, y T^-1) in x."""
    target, length = unit(y) @ TURN.T, np.linalg.norm(x, axis=1, keepdims=True)
    slope = (target - unit(x) * (unit(x) * target).sum(1, keepdims=True)) / length
    return -0.5 * x.T @ slope / BATCH

  x, y = (view.reshape(BATCH, DIM).astype(np.float64) for view in batch['views'])
  wanted = by_hand(x, y) + by_hand(y, x)
  # float32 sums of eight products of about 1, five times.
  np.testing.assert_allclose(gradient(True), wanted, rtol=0, atol=2e-6)
  assert np.abs(gradient(False) - wanted).max() > 0.01


def test_moco_both_ways():
  """The sum of both directions; of two batches of keys the last rows stay, views 1 before 0."""
  batch, size = batch_of(), 11
  method = moco.moco(
    toy(), tau=KEEP, temperature=0.2, queue_size=size, shuffled=False, symmetric=True, axis=None
  )
  value, _, state, after = at(method, batch)
  z, queue = projections(batch), np.asarray(state.queue.items, np.float64)
  wanted = 0.0
  for q, k in (z, z[::-1]):
    logits = np.concatenate([(q * k).sum(1, keepdims=True), q @ queue.T], axis=1) / 0.2
    wanted -= log_softmax(logits)[:, 0].mean()
  assert value == pytest.approx(wanted, rel=1e-5)
  rows = np.concatenate(z[::-1])
  for place in range(2 * BATCH):
    queue[place % size] = rows[place]
  np.testing.assert_allclose(after.queue.items, queue, atol=1e-6)
  assert int(after.queue.pointer) == 2 * BATCH % size and int(after.queue.filled) == size


def test_moco_v3_finds_the_key_of_the_other_view():
  batch, temperature = batch_of(), 0.3
  method = moco_v3.moco_v3(
    toy('projector', 'predictor'), toy('projector'), tau=KEEP, temperature=temperature,
    freeze_patch_embed=False, axis=None,
  )  # fmt: skip
  k, q = projections(batch), predictions(batch)
  directions = [
    2 * temperature * -np.diag(log_softmax(q[i] @ k[1 - i].T / temperature)).mean() for i in (0, 1)
  ]
  assert at(method, batch)[0] == pytest.approx(sum(directions), rel=1e-5)


def test_dino_matches_the_centered_teacher_from_all_other_crops():
  batch, step = batch_of(views=3), 1
  method = dino.dino(
    toy(), tau=KEEP, student_temperature=0.5, teacher_temperature=dino.linear_rise(0.2, 0.4, 4),
    center_momentum=0.9, accumulate=1, freeze_steps=0, axis=None,
  )  # fmt: skip
  state = method.init(jax.random.key(0), batch)[1]
  center = np.random.default_rng(3).normal(size=(1, DIM))
  state = state.replace(center=jnp.asarray(center, jnp.float32))
  value, metrics, _, after = at(method, batch, state=state, step=step)
  crops = [view.reshape(BATCH, DIM).astype(np.float64) for view in batch['views']]
  teacher = [np.exp(log_softmax((crop - center) / 0.25)) for crop in crops[:2]]
  student = [log_softmax(crop / 0.5) for crop in crops]
  pairs = [(i, v) for i in (0, 1) for v in (0, 1, 2) if v != i]
  wanted = np.mean([-(teacher[i] * student[v]).sum(1).mean() for i, v in pairs])
  assert value == pytest.approx(wanted, rel=1e-5)
  seen = np.concatenate(crops[:2]).mean(0, keepdims=True)
  np.testing.assert_allclose(after.center, 0.9 * center + 0.1 * seen, rtol=1e-5, atol=1e-6)
  own = -(teacher[0] * np.log(teacher[0])).sum(1).mean()
  assert float(metrics['collapse/teacher_entropy']) == pytest.approx(own, rel=1e-5)


def test_a_temperature_that_rises_in_a_straight_line():
  rise = dino.linear_rise(0.04, 0.07, 30)
  for step, wanted in ((0, 0.04), (10, 0.05), (30, 0.07), (31, 0.07)):
    assert float(rise(step)) == pytest.approx(wanted, rel=1e-6)
  assert float(dino.linear_rise(0.04, 0.07, 0)(0)) == pytest.approx(0.07, rel=1e-6)


def test_the_bridge_weighs_negatives_of_its_own_temperature():
  batch = batch_of()
  method = bridge.bridge(toy(), toy(), tau=KEEP, target_mode='stop_gradient', beta=0.7, alpha=0.3)
  z, p = projections(batch), [x.astype(np.float32) for x in predictions(batch)]
  dispersion = jax.jit(bridge_loss.dispersion, static_argnums=3)
  wanted = 0.0
  for i in (0, 1):
    own, other = z[i].astype(np.float32), z[1 - i].astype(np.float32)
    wanted += 2 - 2 * (p[i] * other).sum(1).mean() + 0.7 * float(dispersion(p[i], own, other, 0.3))
  assert at(method, batch)[0] == pytest.approx(wanted, rel=1e-5)


def test_simclrs_memory_takes_in_both_views():
  batch, temperature = batch_of(), 0.5
  method = simclr.simclr(
    toy(), toy(), taps=('embedding', 'projection'), temperature=temperature, chunk=0,
    memory_size=20, memory_tau=KEEP, axis=None,
  )  # fmt: skip
  value, _, state, after = at(method, batch)
  z, memory = np.concatenate(projections(batch)), np.asarray(state.queue.items, np.float64)
  logits = z @ np.concatenate([z, memory]).T / temperature
  np.fill_diagonal(logits, -np.inf)
  own = (np.arange(2 * BATCH) + BATCH) % (2 * BATCH)
  each = np.log(np.exp(logits).sum(1)) - logits[np.arange(2 * BATCH), own]
  assert value == pytest.approx(2 * each.mean(), rel=1e-5)
  np.testing.assert_allclose(after.queue.items[: 2 * BATCH], z, atol=1e-6)


def test_distillation_softens_both_sides():
  batch, kernel = batch_of(views=1), np.random.default_rng(4).normal(size=(DIM, DIM))
  teacher = types.SimpleNamespace(
    params=jnp.asarray(kernel, jnp.float32), bn={},
    read=lambda params, bn, images: images.reshape(BATCH, DIM) @ params,
  )  # fmt: skip
  pixels = batch['views'][0].reshape(BATCH, DIM).astype(np.float64)
  targets = np.exp(log_softmax(pixels @ kernel / 0.5))
  wanted = -(targets * log_softmax(pixels / 0.5)).sum(1).mean()
  value = at(distillation.distillation(toy(), teacher, temperature=0.5), batch)[0]
  assert value == pytest.approx(wanted, rel=1e-5)


def test_the_loss_of_barlow_twins_has_a_scale():
  batch, kernel = batch_of(), np.random.default_rng(2).normal(size=(DIM, 4)).astype(np.float32)
  a, b = (view.reshape(BATCH, DIM) @ kernel for view in batch['views'])
  fields = {'projector': (4,), 'off_diagonal': 0.3, 'loss_scale': 2.5}
  method = barlow_twins.build(lambda axis: Pixels(), Setting(Length(BATCH, 5, 20)), **fields)
  params = {'encoder': {}, 'projector': {'linear1': {'kernel': kernel}}}
  value, metrics, _, _ = at(method, batch, Statistics({'encoder': {}, 'projector': {}}), params)
  unscaled, terms = jax.jit(redundancy.barlow_twins, static_argnames='off_diagonal')(
    a, b, off_diagonal=0.3
  )
  assert value == pytest.approx(2.5 * float(unscaled), rel=1e-5)
  for name, term in terms.items():
    assert float(metrics[f'loss/{name}']) == pytest.approx(float(term), rel=1e-5)


def test_swav_swaps_codes_that_a_full_queue_takes_part_in_from_its_step_on():
  projector = heads.MLPHead((4,))
  size, epsilon, temperature = 12, 0.3, 0.2
  method = swav.swav(
    stack((('encoder', 'embedding', Pixels()),)),
    stack((('projector', 'projection', projector), ('prototypes', 'scores', heads.Prototypes(5)))),
    temperature=temperature, epsilon=epsilon, iterations=3, freeze_steps=0, queue_size=size,
    queue_from=3, axis=None,
  )  # fmt: skip
  batch = batch_of(views=3)
  params, state = method.init(jax.random.key(5), batch)
  kernel = np.asarray(params['projector']['linear1']['kernel'], np.float64)
  prototypes = np.asarray(params['prototypes']['kernel'], np.float64)
  np.testing.assert_allclose(np.linalg.norm(prototypes, axis=0), 1.0, rtol=1e-6)
  z = [unit(view.reshape(BATCH, DIM) @ kernel) for view in batch['views']]
  scores = [each @ prototypes for each in z]
  assign = jax.jit(functools.partial(sinkhorn.assign, epsilon=epsilon, iterations=3))
  full = tuple(queue._replace(filled=jnp.int32(size)) for queue in state.queues)
  for queues, step, takes_part in ((full, 2, False), (state.queues, 3, False), (full, 3, True)):
    value, _, _, after = at(method, batch, state.replace(queues=queues), params, step=step)
    wanted = []
    for i in (0, 1):
      earlier = np.asarray(state.queues[i].items) @ prototypes if takes_part else None
      codes = assign(scores[i], extra=earlier)
      others = [log_softmax(scores[v] / temperature) for v in range(3) if v != i]
      wanted += [-(np.asarray(codes) * other).sum(1).mean() for other in others]
    assert value == pytest.approx(np.mean(wanted), rel=1e-5)
    for i in (0, 1):
      np.testing.assert_allclose(after.queues[i].items[:BATCH], z[i], atol=1e-6)
