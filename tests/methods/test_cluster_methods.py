"""Methods that cluster the data set: DeepCluster, DeepCluster-v2 and InterCLR, by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from byoljax import streams
from byoljax.length import Length
from byoljax.method import Setting
from byoljax.methods.joint_embedding import deepcluster, deepcluster_v2, interclr
from byoljax.ops import ema, kmeans, pseudo_classes
from tests.methods.test_contract import SIZE, TinyEncoder
from tests.methods.test_memory_methods import (
  BATCH,
  DIM,
  IMAGES,
  at,
  batch_of,
  log_softmax,
  rows_of,
  toy,
  unit,
)


def assert_equal(a, b):
  jax.tree.map(np.testing.assert_array_equal, a, b)


def blobs(count, seed=0):
  """Unit rows [IMAGES, DIM] around `count` directions; row i is of blob i % count."""
  rng = np.random.default_rng(seed)
  centers = np.eye(DIM)[:count] + 0.1
  return unit(centers[np.arange(IMAGES) % count] + 0.05 * rng.normal(size=(IMAGES, DIM)))


def same_partition(a, b):
  pairs = set(zip(np.asarray(a).tolist(), np.asarray(b).tolist(), strict=True))
  return len(pairs) == len(set(np.asarray(a).tolist())) == len(set(np.asarray(b).tolist()))


class TestDeepCluster:
  def built(self, **changes):
    setting = Setting(Length(256, 7, 100), num_examples=IMAGES)
    return deepcluster.build(TinyEncoder, setting, **({'num_clusters': 4, 'pca_dim': 3} | changes))

  def start(self, method):
    images = np.zeros((2, SIZE, SIZE, 3), np.float32)
    return method.init(jax.random.key(0), {'views': (images,)})

  def test_weights_make_clusters_equal(self):
    labels = np.array([0] * 6 + [1] * 3 + [3] * 1, np.int32)
    sizes = np.bincount(labels, minlength=4).astype(np.int32)
    w = np.asarray(jax.jit(deepcluster.weights)(labels, sizes), np.float64)
    assert w.mean() == pytest.approx(1.0)
    totals = np.bincount(labels, weights=w, minlength=4)
    np.testing.assert_allclose(totals[[0, 1, 3]], 10 / 3, rtol=1e-6)

  def test_weights_of_clusters_beyond_a_32_bit_product(self):
    sizes = np.array([300_000] + [100] * 9_999, np.int32)
    weight = jax.jit(deepcluster.weights)(np.zeros(1, np.int32), sizes)
    assert float(weight[0]) == pytest.approx(1_299_900 / (10_000 * 300_000), rel=1e-6)

  def test_loss_is_the_weighted_cross_entropy_of_the_image_label(self):
    method = deepcluster.deepcluster(
      toy(), num_examples=IMAGES, num_clusters=DIM, pca_dim=4, iterations=5, every=1
    )
    batch = batch_of(views=1)
    labels = np.random.default_rng(2).integers(0, DIM - 1, IMAGES).astype(np.int32)
    sizes = np.bincount(labels, minlength=DIM).astype(np.int32)
    state = deepcluster.DeepClusterState({'encoder': {}}, jnp.asarray(labels), jnp.asarray(sizes))
    value, metrics, _, _ = at(method, batch, state=state)
    logits = batch['views'][0].reshape(BATCH, DIM).astype(np.float64)
    own = labels[batch['index']]
    each = -log_softmax(logits)[np.arange(BATCH), own]
    wanted = (each * IMAGES / ((sizes > 0).sum() * sizes[own])).mean()
    assert value == pytest.approx(wanted, rel=1e-5)
    assert float(metrics['pretext_top1']) == pytest.approx((logits.argmax(1) == own).mean())

  def test_clustering_finds_blobs_and_renews_the_head(self):
    method = self.built()
    params, state = self.start(method)
    assert method.refresh.every == 7
    features = blobs(4).astype(np.float32)
    refreshed = [
      method.refresh.apply(params, state, lambda: {'embedding': features}, jax.random.key(3), 7)
      for _ in range(2)
    ]
    assert_equal(*refreshed)
    (new, after), _ = refreshed
    assert same_partition(after.labels, np.arange(IMAGES) % 4)
    np.testing.assert_array_equal(after.sizes, np.bincount(after.labels, minlength=4))
    assert_equal(new['encoder'], params['encoder'])
    kernel = np.asarray(new['head']['linear1']['kernel'])
    assert kernel.shape == params['head']['linear1']['kernel'].shape
    assert not np.array_equal(kernel, params['head']['linear1']['kernel'])
    assert 0.005 < kernel.std() < 0.02
    assert not np.any(new['head']['linear1']['bias'])

  def test_the_probe_survives_a_clustering(self):
    method = self.built()
    params, state = self.start(method)
    probe = {'kernel': jnp.ones((8, 3))}
    features = blobs(4).astype(np.float32)
    new, _ = method.refresh.apply(
      params | {'probe': probe}, state, lambda: {'embedding': features}, jax.random.key(3), 0
    )
    assert_equal(new['probe'], probe)


class TestDeepClusterV2:
  def method(self, prototypes=(4, 3, 4)):
    return deepcluster_v2.deepcluster_v2(
      toy(), pass_on(), num_examples=IMAGES, dim=DIM, prototypes=prototypes, temperature=0.1,
      iterations=10, every=5, axis=None,
    )  # fmt: skip

  def test_loss_over_crops_and_clusterings(self):
    method = self.method()
    batch = batch_of(views=3)
    value, _, state, after = at(method, batch)
    z = [rows_of(view) for view in batch['views']]
    terms = []
    for centroids, labels in zip(state.prototypes, state.labels, strict=True):
      own = np.asarray(labels)[batch['index']]
      for crop in z:
        logits = crop @ np.asarray(centroids, np.float64).T / 0.1
        terms.append(-log_softmax(logits)[np.arange(BATCH), own].mean())
    assert value == pytest.approx(np.mean(terms), rel=1e-5)
    for crop in (0, 1):
      wanted = np.array(state.banks[crop])
      wanted[batch['index']] = z[crop]
      np.testing.assert_allclose(after.banks[crop], wanted, atol=1e-6)

  def test_clusterings_take_the_banks_in_turn(self):
    method = self.method()
    _, state = method.init(jax.random.key(0), batch_of())
    first, second = (jnp.asarray(blobs(n, n), jnp.float32) for n in (4, 3))
    state = state.replace(banks=(first, second))

    def no_features():
      raise AssertionError('only the first clustering needs features')

    results = [
      method.refresh.apply({}, state, no_features, jax.random.key(1), 5)[1] for _ in range(2)
    ]
    assert_equal(*results)
    after = results[0]
    starts = jax.random.fold_in(jax.random.key(1), streams.CLUSTERING)
    for i, bank in enumerate((first, second, first)):
      centroids, labels = kmeans.kmeans(
        bank, len(state.prototypes[i]), key=jax.random.fold_in(starts, i),
        iterations=10, spherical=True,
      )  # fmt: skip
      np.testing.assert_array_equal(after.labels[i], labels)
      np.testing.assert_allclose(after.prototypes[i], centroids, atol=1e-6)
    np.testing.assert_array_equal(after.banks[1], second)

  def test_first_clustering_fills_both_banks(self):
    method = self.method()
    params, state = method.init(jax.random.key(0), batch_of())
    features = 3.0 * blobs(4).astype(np.float32)
    _, after = method.refresh.apply(
      params, state, lambda: {'projection': features}, jax.random.key(1), 0
    )
    for bank in after.banks:
      np.testing.assert_allclose(bank, unit(features), atol=1e-6)
    assert same_partition(after.labels[1], np.arange(IMAGES) % 4) is False, 'three clusters'
    np.testing.assert_allclose(np.linalg.norm(after.prototypes[0], axis=1), 1.0, atol=1e-5)


def pass_on():
  """A head that does nothing."""
  return toy()._replace(
    init=lambda key, x: ({}, {}),
    apply=lambda params, stats, x, *, train, upto=None: ({'projection': x}, stats),
  )


class TestInterclr:
  def method(self, **changes):
    constants = {
      'num_examples': IMAGES, 'dim': DIM, 'queue_size': 20, 'num_clusters': IMAGES,
      'sampling': pseudo_classes.Sampling('hard', 5, 7), 'temperature': 0.2, 'margin': -0.5,
      'intra_weight': 0.75, 'inter_weight': 0.25, 'warmup_steps': 0, 'centroid_every': 3,
      'min_cluster_size': 2, 'repair_every': 9,
    } | changes  # fmt: skip
    return interclr.interclr(
      toy(), interclr.Constants(**constants), tau=ema.constant_tau(0.9), shuffled=True, axis=None
    )

  def test_loss_of_both_branches(self):
    """Every image its own class and the hardest negatives: nothing is left to chance."""
    batch = batch_of()
    value, metrics, state, _ = at(self.method(), batch)
    q, k = (rows_of(view) for view in batch['views'])
    bank, queue = (np.asarray(x, np.float64) for x in (state.bank, state.queue.items))
    own = (q * k).sum(-1, keepdims=True)
    intra = -log_softmax(np.concatenate([own, q @ queue.T], 1) / 0.2)[:, 0].mean()
    similarity = q @ bank.T
    near = similarity[np.arange(BATCH), batch['index']][:, None] + 0.5
    similarity[np.arange(BATCH), batch['index']] = -np.inf
    hardest = -np.sort(-similarity, axis=1)[:, :7]
    inter = -log_softmax(np.concatenate([near, hardest], 1) / 0.2)[:, 0].mean()
    assert float(metrics['loss/intra']) == pytest.approx(intra, rel=1e-5)
    assert float(metrics['loss/inter']) == pytest.approx(inter, rel=1e-5)
    assert value == pytest.approx(0.75 * intra + 0.25 * inter, rel=1e-5)
    late = self.method(warmup_steps=2)
    for step, wanted in ((1, intra), (2, value)):
      assert at(late, batch, step=step)[0] == pytest.approx(wanted, rel=1e-5)

  @pytest.mark.parametrize('step', [3, 4])
  def test_memory_after_a_batch(self, step):
    batch = batch_of()
    _, metrics, state, after = at(self.method(num_clusters=5), batch, step=step)
    k, where = rows_of(batch['views'][1]), batch['index']
    bank, labels = np.array(state.bank), np.array(state.labels)
    bank[where] = k
    new = (k @ np.asarray(state.centroids).T).argmax(1)
    changed = (labels[where] != new).mean()
    labels[where] = new
    np.testing.assert_allclose(after.bank, bank, atol=1e-6)
    np.testing.assert_array_equal(after.labels, labels)
    assert float(metrics['labels_changed']) == pytest.approx(changed)
    np.testing.assert_allclose(after.queue.items[:BATCH], k, atol=1e-6)
    centroids = np.array(state.centroids)
    if step == 3:
      for c in range(5):
        centroids[c] = unit(bank[labels == c].sum(0))
    np.testing.assert_allclose(after.centroids, centroids, atol=1e-5)

  def test_only_negatives_of_the_own_class(self):
    """One class for all: every negative is masked, and loss and gradient stay finite."""
    method = self.method(num_clusters=2, sampling=pseudo_classes.Sampling('semihard', 10, 7))
    batch = batch_of()
    params, state = method.init(jax.random.key(0), batch)
    state = state.replace(labels=np.zeros_like(state.labels))
    descend = jax.jit(jax.value_and_grad(method.loss, has_aux=True))
    (_, aux), gradient = descend(params, state, batch, jax.random.key(0), jnp.int32(1))
    assert float(aux.metrics['loss/inter']) == 0.0
    assert np.isfinite(gradient['encoder']['kernel']).all()
    assert np.abs(gradient['encoder']['kernel']).max() > 0

  def test_key_network_follows(self):
    method = self.method()
    params, state = method.init(jax.random.key(0), batch_of())
    assert_equal(params, state.target_params)
    moved = jax.tree.map(lambda x: x + 1.0, params)
    _, after, _ = jax.jit(method.post_step)(moved, state, jnp.int32(0))
    np.testing.assert_allclose(
      after.target_params['encoder']['kernel'], np.eye(DIM) + 0.1, atol=1e-6
    )

  def test_clusters_everything_first_and_repairs_later(self):
    method = self.method(num_clusters=4)
    params, state = method.init(jax.random.key(0), batch_of())
    features = 2.0 * blobs(4).astype(np.float32)

    def again(state, step):
      both = [
        method.refresh.apply(
          params, state, lambda: {'projection': features}, jax.random.key(4), step
        )[1]
        for _ in range(2)
      ]
      assert_equal(*both)
      return both[0]

    assert method.refresh.every == 9
    first = again(state, 0)
    np.testing.assert_allclose(first.bank, unit(features), atol=1e-6)
    assert same_partition(first.labels, np.arange(IMAGES) % 4)
    # Clusters 1 to 3 fall apart into one of two images and two empty ones.
    few = first.replace(labels=np.array([1, 1] + [0] * (IMAGES - 2), np.int32))
    repaired = again(few, 9)
    assert (np.bincount(repaired.labels, minlength=4) >= 2).all()
