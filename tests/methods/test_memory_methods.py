"""Methods that remember: banks, queues and pseudo-labels, against NumPy by hand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from byoljax import streams
from byoljax.length import Length
from byoljax.method import Setting
from byoljax.methods.joint_embedding import (
  deepcluster,
  deepcluster_v2,
  instance_discrimination,
  interclr,
  moco,
  nnclr,
  triplet,
)
from byoljax.models.net import Net
from byoljax.ops import ring
from byoljax.step import init_state, train_step
from tests.methods.test_contract import SIZE, TinyEncoder

DIM, IMAGES, BATCH = 6, 40, 8
TURN = np.linalg.qr(np.random.default_rng(9).normal(size=(DIM, DIM)))[0].astype(np.float32)


def toy(*heads):
  """Projections are the pixels themselves, predictions are the pixels turned around."""

  def init(key, x):
    del key, x
    empty = {role: {} for role in heads}
    return {'encoder': {'kernel': jnp.eye(DIM)}} | empty, {'encoder': {}} | empty

  def apply(params, stats, x, *, train, upto=None):
    del train, upto
    z = x.reshape(len(x), -1) @ params['encoder']['kernel']
    return {'embedding': z, 'projection': z, 'prediction': z @ TURN, 'logits': z}, stats

  return Net(init, apply)


def batch_of(seed=0, views=2, index=None):
  rng = np.random.default_rng(seed)
  made = tuple(rng.normal(size=(BATCH, 1, 2, 3)).astype(np.float32) for _ in range(views))
  index = rng.permutation(IMAGES)[:BATCH] if index is None else index
  return {'views': made, 'index': np.asarray(index, np.int32)}


def rows_of(view):
  return unit(view.reshape(BATCH, DIM).astype(np.float64))


def unit(x):
  return x / np.linalg.norm(x, axis=-1, keepdims=True)


def log_softmax(x):
  shifted = x - x.max(-1, keepdims=True)
  return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def at(method, batch, state=None, params=None, key=0, step=0):
  """(loss, metrics, state before, state after) of one evaluation."""
  if params is None or state is None:
    drawn = method.init(jax.random.key(5), batch)
    params, state = params or drawn[0], state or drawn[1]
  value, metrics, after = _evaluation(method)(params, state, batch, jax.random.key(key), step)
  return float(value), metrics, state, after


_latest = [(None, None)]  # A method, which cannot be hashed, and its evaluation.


def _evaluation(method):
  if _latest[0][0] is method:
    return _latest[0][1]

  @jax.jit
  def evaluate(params, state, batch, key, step):
    value, aux = method.loss(params, state, batch, key, step)
    after = method.remember(aux.method_state, aux.rows, jnp.bool_(True))
    _, after, _ = method.post_step(params, after, step)
    return value, aux.metrics, after

  _latest[0] = (method, evaluate)
  return evaluate


def built(module, **changes):
  setting = Setting(Length(32, 20, 100), num_examples=64)
  return module.build(TinyEncoder, setting, **changes)


def pictures(index, seed, views):
  """64 images of 8 kinds, which differ from their kind; views differ from their image."""
  kinds = np.random.default_rng(0).normal(size=(8, SIZE, SIZE, 3))
  own = np.random.default_rng(1).normal(size=(64, SIZE, SIZE, 3))
  images = kinds[index % 8] + 0.6 * own[index]
  rng = np.random.default_rng(seed)
  noisy = (images + 0.8 * rng.normal(size=images.shape) for _ in range(views))
  return tuple(view.astype(np.float32) for view in noisy)


def share_of_kind(method, state):
  """How many images have one of their own kind as nearest neighbor."""
  index = np.arange(64)
  (images,) = pictures(index, 999, 1)
  taps = jax.jit(method.embed)(state.params, state.method_state, images)
  found = unit(np.asarray(taps['embedding']))
  similarity = found @ found.T - 2 * np.eye(64)
  return (similarity.argmax(1) % 8 == index % 8).mean()


SMALL = {
  'instance_discrimination': (
    instance_discrimination,
    {'projector': (8,), 'criterion': 'full_softmax', 'temperature': 0.2},
    1,
  ),
  'interclr': (
    interclr,
    {'projector': (16, 8), 'queue_size': 64, 'tau': 0.9, 'bn_groups': 2, 'num_clusters': 8,
     'pool_size': 40, 'num_negatives': 20, 'min_cluster_size': 2, 'repair_every': '1 epochs'},
    2,
  ),
  'deepcluster': (deepcluster, {'num_clusters': 8}, 1),
  'deepcluster_v2': (deepcluster_v2, {'projector': (16, 8), 'prototypes': (8, 8)}, 2),
  'triplet': (triplet, {'projector': (16, 8), 'margin': 0.5}, 2),
  'nnclr': (nnclr, {'projector': (16, 8), 'predictor': (16, 8), 'queue_size': 48}, 2),
}  # fmt: skip


# The rest is tried step by step by its own tests, and compiled by the contract.
_LEARNING = ('deepcluster_v2',)


@pytest.mark.parametrize(
  'name',
  [
    pytest.param(name, marks=() if name in _LEARNING else pytest.mark.slow)
    for name in sorted(SMALL)
  ],
)
def test_images_of_a_kind_come_together(name):
  """A hundred steps, clusterings included."""
  module, fields, views = SMALL[name]
  method = built(module, **fields)
  tx = optax.adam(1e-2)

  def batch(seed):
    index = np.random.default_rng(seed).permutation(64)[:32].astype(np.int32)
    return {'views': pictures(index, seed, views), 'index': index}

  step = jax.jit(
    functools.partial(train_step, method=method, tx=tx, augment=lambda b, s: b, axis=None)
  )
  state = init_state(method, tx, batch(0), 0)
  embed, (before, losses) = jax.jit(method.embed), (share_of_kind(method, state), [])
  (clean,) = pictures(np.arange(64), 777, 1)
  for number in range(100):
    if method.refresh is not None and number % method.refresh.every == 0:
      taps = embed(state.params, state.method_state, clean)
      params, method_state = method.refresh.apply(
        state.params, state.method_state, lambda taps=taps: taps, jax.random.key(number), number
      )
      state = state.replace(params=params, method_state=method_state)
    state, metrics = step(state, batch(number))
    losses.append(float(metrics['loss']))
  assert np.mean(losses[-20:]) < np.mean(losses[:20])
  # Measured: .52 before, .69 to .92 after.
  assert share_of_kind(method, state) > before + 0.1


class TestInstanceDiscrimination:
  def method(self, **changes):
    fields = {
      'num_examples': IMAGES, 'dim': DIM, 'criterion': 'full_softmax', 'temperature': 0.2,
      'bank_momentum': 0.5, 'num_noise': 15, 'ensure_negatives': False, 'refresh': None,
      'axis': None,
    }  # fmt: skip
    return instance_discrimination.instance_discrimination(toy(), **(fields | changes))

  def noise(self, exclude=None):
    draw = instance_discrimination.noise_indices
    key = jax.random.fold_in(jax.random.key(3), streams.NEGATIVES)
    return np.asarray(draw(key, jnp.arange(BATCH), 15, IMAGES, exclude))

  def test_softmax_over_the_bank(self):
    batch = batch_of(views=1)
    value, _, state, _ = at(self.method(), batch)
    logits = rows_of(batch['views'][0]) @ np.asarray(state.bank, np.float64).T / 0.2
    wanted = -log_softmax(logits)[np.arange(BATCH), batch['index']].mean()
    assert value == pytest.approx(wanted, rel=1e-5)

  def test_softmax_over_noise(self):
    batch = batch_of(views=1)
    method = self.method(criterion='infonce', ensure_negatives=True)
    value, _, state, _ = at(method, batch, key=3)
    z, bank = rows_of(batch['views'][0]), np.asarray(state.bank, np.float64)
    positive = (z * unit(bank[batch['index']])).sum(-1, keepdims=True)
    noise = np.einsum('bd,bkd->bk', z, bank[self.noise(batch['index'])])
    wanted = -log_softmax(np.concatenate([positive, noise], 1) / 0.2)[:, 0].mean()
    assert value == pytest.approx(wanted, rel=1e-5)

  def test_noise_contrast_and_its_constant(self):
    batch = batch_of(views=1)
    method = self.method(criterion='nce')
    value, metrics, state, after = at(method, batch, key=3)
    z, bank = rows_of(batch['views'][0]), np.asarray(state.bank, np.float64)
    e_own = np.exp((z * bank[batch['index']]).sum(-1) / 0.2)
    e_noise = np.exp(np.einsum('bd,bkd->bk', z, bank[self.noise()]) / 0.2)
    constant = IMAGES * np.concatenate([e_own[:, None], e_noise], 1).mean()
    ratio = 15 / IMAGES
    own, noise = e_own / constant, e_noise / constant
    wanted = -np.log(own / (own + ratio + 1e-7)) - np.log(ratio / (noise + ratio + 1e-7)).sum(1)
    assert value == pytest.approx(wanted.mean(), rel=1e-5)
    assert float(metrics['log_z']) == pytest.approx(np.log(constant), rel=1e-6)
    _, metrics, _, later = at(method, batch_of(1, views=1), state=after, key=4)
    assert float(metrics['log_z']) == float(after.log_z) == float(later.log_z), 'never again'

  def test_bank_takes_in_the_batch_after_the_loss(self):
    batch = batch_of(views=1)
    _, _, state, after = at(self.method(), batch)
    wanted = np.asarray(state.bank, np.float64)
    where = batch['index']
    wanted[where] = unit(0.5 * wanted[where] + 0.5 * rows_of(batch['views'][0]))
    np.testing.assert_allclose(after.bank, wanted, rtol=1e-5, atol=1e-6)

  def test_bank_filled_with_projections_of_the_untrained_network(self):
    images = pictures(np.arange(64), 3, 1)
    method = built(instance_discrimination, projector=(8,), fill=True)
    params, state = method.init(jax.random.key(0), {'views': images})
    taps = jax.jit(method.embed)(params, state, images[0])
    assert method.refresh.every == 100, 'once in the run'
    _, filled = method.refresh.apply(params, state, lambda: taps, jax.random.key(0), 0)
    np.testing.assert_allclose(filled.bank, unit(np.asarray(taps['projection'])), rtol=1e-5)
    assert built(instance_discrimination).refresh is None

  def test_output_norm_takes_the_mean_away(self):
    images = pictures(np.arange(64), 3, 1)
    means = {}
    for on in (False, True):
      method = built(instance_discrimination, projector=(8,), output_norm=on)
      batch = {'views': images, 'index': np.arange(64, dtype=np.int32)}
      params, state = method.init(jax.random.key(0), batch)
      _, aux = jax.jit(method.loss)(params, state, batch, jax.random.key(0), jnp.int32(0))
      means[on] = np.abs(np.asarray(aux.rows[1]).mean(0)).max()
    assert means[True] < 0.1 < 0.2 < means[False]

  def test_rows_and_indices_stay_together(self):
    """Permuting the examples changes nothing; permuting their indices alone does."""
    batch, order = batch_of(views=1), np.random.default_rng(1).permutation(BATCH)
    method = self.method()
    value, _, _, after = at(method, batch)
    both = {'views': (batch['views'][0][order],), 'index': batch['index'][order]}
    same, _, _, again = at(method, both)
    assert same == pytest.approx(value, rel=1e-6)
    np.testing.assert_allclose(again.bank, after.bank, atol=1e-6)
    assert abs(at(method, batch | {'index': both['index']})[0] - value) > 1e-3

  def test_noise_belongs_to_the_place_in_the_global_batch(self):
    draw = functools.partial(instance_discrimination.noise_indices, jax.random.key(0))
    whole = draw(jnp.arange(8), 30, IMAGES)
    np.testing.assert_array_equal(draw(jnp.arange(4, 8), 30, IMAGES), whole[4:])
    assert not np.array_equal(whole[0], whole[1])
    own = jnp.arange(8, dtype=jnp.int32) * 5
    others = np.asarray(draw(jnp.arange(8), 4000, IMAGES, own))
    for row, mine in zip(others, own, strict=True):
      counts = np.bincount(row, minlength=IMAGES)
      assert counts[mine] == 0, 'its own positive'
      rest = np.delete(counts, mine)
      # 39 others with 103 each on average, standard deviation 10.
      assert rest.min() > 50 and rest.max() < 160


class TestNnclr:
  def test_neighbors_are_real_rows(self):
    rng = np.random.default_rng(0)
    z = unit(rng.normal(size=(BATCH, DIM))).astype(np.float32)
    queue = ring.init(jax.random.key(0), 30, DIM)
    nearest = jax.jit(nnclr.nearest)
    found, cosine = nearest(queue, z)
    np.testing.assert_array_equal(found, z)
    stored = unit(rng.normal(size=(12, DIM)))
    found, cosine = nearest(jax.jit(ring.push)(queue, stored.astype(np.float32)), z)
    similarity = z.astype(np.float64) @ stored.T
    np.testing.assert_allclose(found, stored[similarity.argmax(1)], atol=1e-6)
    np.testing.assert_allclose(cosine, similarity.max(1), atol=1e-6)

  def test_loss_by_hand_and_queue(self):
    method = nnclr.nnclr(toy(), queue_size=20, dim=DIM, temperature=0.1, axis=None)
    first, second = batch_of(0), batch_of(1)
    _, _, _, state = at(method, first)
    np.testing.assert_allclose(state.queue.items[:BATCH], rows_of(first['views'][0]), atol=1e-6)
    value, metrics, _, after = at(method, second, state=state)
    stored = rows_of(first['views'][0])
    z = [rows_of(view) for view in second['views']]
    near = [stored[(one @ stored.T).argmax(1)] for one in z]
    p = [one @ TURN.astype(np.float64) for one in z]
    terms = [-np.diag(log_softmax(near[i] @ p[1 - i].T / 0.1)).mean() for i in (0, 1)]
    assert value == pytest.approx(np.mean(terms), rel=1e-5)
    assert float(metrics['queue_filled']) == pytest.approx(BATCH / 20)
    assert int(after.queue.filled) == 2 * BATCH


def test_triplets_are_views_of_one_image_against_others():
  method = triplet.triplet(toy(), margin=0.3, mode='all', axis=None)
  batch = batch_of(index=[0, 1, 2, 3, 4, 5, 6, 0])  # The first and the last row are one image.
  value, metrics, _, _ = at(method, batch)
  z = np.concatenate([rows_of(view) for view in batch['views']])
  groups = np.tile(batch['index'], 2)
  d = ((z[:, None] - z[None, :]) ** 2).sum(-1)
  hinges = [
    d[a, p] - d[a, n] + 0.3
    for a in range(16) for p in range(16) for n in range(16)
    if a != p and groups[a] == groups[p] and groups[n] != groups[a]
  ]  # fmt: skip
  assert value == pytest.approx(np.maximum(hinges, 0).mean(), rel=1e-5)
  assert float(metrics['active_triplets']) == pytest.approx((np.array(hinges) > 0).mean())


@pytest.mark.parametrize(
  ('module', 'changes', 'said'),
  [
    (instance_discrimination, {'criterion': 'softmax'}, 'full_softmax'),
    (instance_discrimination, {'temperature': 0.0}, 'above 0'),
    (instance_discrimination, {'bank_momentum': 1.0}, 'below 1'),
    (triplet, {'mode': 'hard'}, 'batch_hard'),
    (triplet, {'margin': 5.0}, 'between 0 and 4'),
    (nnclr, {'predictor': (16, 4)}, 'must be equal'),
    (nnclr, {'queue_size': 0}, 'at least 1'),
    (deepcluster, {'num_clusters': 65}, 'the 64 training images'),
    (deepcluster_v2, {'prototypes': (8, 100)}, '100 clusters'),
    (deepcluster_v2, {'prototypes': ()}, 'empty'),
    (interclr, {'num_clusters': 100}, 'the 64 training images'),
    (interclr, {'num_clusters': 8, 'sampling': 'semi'}, 'semihard'),
    (interclr, {'num_clusters': 8, 'pool_size': 100}, 'between 1 and the 64'),
    (interclr, {'num_clusters': 8, 'bn_groups': 3}, 'bn_groups=3'),
    (interclr, {'num_clusters': 8, 'repair_every': '0 steps'}, 'at least 1'),
    (interclr, {'num_clusters': 8, 'intra_weight': -1.0}, 'must not be negative, and not both 0'),
    (interclr, {'num_clusters': 8, 'intra_weight': 0, 'inter_weight': 0}, 'not both 0'),
    (interclr, {'num_clusters': 8, 'margin': 3.0}, 'margin=3.0 of cosines'),
    (moco, {'queue_size': 0}, 'queue_size=0 must be at least 1'),
    (moco, {'temperature': '0.1'}, "must be above 0, got '0.1'"),
    (moco, {'temperature': np.float32(-1)}, 'must be above 0'),
  ],
)
def test_mistakes(module, changes, said):
  with pytest.raises(ValueError, match=said):
    built(module, **changes)
