"""The contract that every method keeps; one case for every row of METHODS."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from byoljax.devices import collectives, mapping
from byoljax.length import Length
from byoljax.losses import classification
from byoljax.method import NETWORKS, Pretrained, Setting, Teacher, with_online_probe
from byoljax.methods import METHODS
from byoljax.models import heads, layers
from byoljax.models.net import stack
from byoljax.step import init_state, train_step
from byoljax.workdir import checkpoint

SIZE, CLASSES, BATCH, STEPS = 8, 3, 32, 20


class TinyEncoder(nn.Module):
  """A network that compiles quickly and still has batch statistics."""

  bn_axis: str | None
  bn_groups: int = 0
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x, *, train):
    x = nn.Conv(8, (3, 3), strides=2, dtype=self.dtype, param_dtype=jnp.float32)(x)
    x = nn.relu(layers.batch_norm(train, self.bn_axis, self.dtype, 'bn', groups=self.bn_groups)(x))
    return x.mean((1, 2)).astype(jnp.float32)


def _frozen():
  encoder = TinyEncoder(None)
  net = stack((('encoder', 'embedding', encoder),))
  params, bn = net.init(jax.random.key(7), jnp.zeros((2, SIZE, SIZE, 3)))

  def features(params, bn, images):
    return net.apply(params, bn, images, train=False)[0]['embedding']

  return Pretrained(params, bn, features)


def _teacher():
  """A classifier of the mean color."""
  weight = jax.random.normal(jax.random.key(3), (3, CLASSES))
  return Teacher(lambda variables, x: x.mean((1, 2)) @ variables, 5.0 * weight, CLASSES)


# name -> (arguments of the builder, number of views)
CASES = {
  'barlow_twins': ({'projector': (16, 16, 8)}, 2),
  'bridge': ({'projector': (16, 8), 'predictor': (), 'base_tau': 0.9, 'beta': 0.5}, 2),
  'byol': ({'projector': (16, 8), 'predictor': (16, 8), 'base_tau': 0.9}, 2),
  'deepcluster': ({'num_clusters': 6, 'pca_dim': 4}, 1),
  'deepcluster_v2': ({'projector': (16, 8), 'prototypes': (6, 5)}, 3),
  'dino': ({'projector': (16, 8), 'outputs': 12, 'freeze_last': '1 steps'}, 3),
  'distillation': ({'temperature': 0.5}, 1),
  'supervised': ({}, 1),
  'instance_discrimination': ({'projector': (8,), 'num_noise': 12}, 1),
  'interclr': (
    {'projector': (16, 8), 'queue_size': 80, 'tau': 0.9, 'bn_groups': 4, 'num_clusters': 6,
     'pool_size': 24, 'num_negatives': 10, 'centroid_every': 2},
    2,
  ),
  'linear_probe': ({'num_heads': 2}, 1),
  'moco': ({'projector': (16, 8), 'queue_size': 80, 'tau': 0.9, 'symmetric': True,
            'bn_groups': 4}, 2),
  'moco_v3': ({'projector': (16, 8), 'predictor': (16, 8), 'base_tau': 0.9}, 2),
  'nnclr': ({'projector': (16, 16, 8), 'predictor': (16, 8), 'queue_size': 48}, 2),
  'simclr': ({'projector': (16, 8), 'memory_size': 80, 'memory_tau': 0.9, 'chunk': 24}, 2),
  'simsiam': ({'projector': (16, 8), 'predictor': (16, 8)}, 2),
  'swav': (
    {'projector': (16, 8), 'prototypes': 6, 'queue_size': 48, 'queue_from': '2 steps',
     'freeze': '1 steps'},
    3,
  ),
  'triplet': ({'projector': (16, 8)}, 2),
  'vicreg': ({'projector': (16, 16, 8)}, 2),
  'w_mse': ({'projector': (16, 4)}, 2),
}  # fmt: skip
WITH_TARGET = {'bridge', 'byol', 'dino', 'interclr', 'moco', 'moco_v3', 'simclr'}
every_method = pytest.mark.parametrize('name', sorted(METHODS))


def make(name, axis=collectives.AXIS, dtype='float32', accumulate=1, setting=None, **changes):
  arguments, _ = CASES[name]
  fields = {'total_steps': STEPS, 'batch_size': BATCH} | (setting or {})
  length = Length(fields.pop('batch_size'), 2, fields.pop('total_steps'))
  run = Setting(
    length, accumulate=accumulate, num_devices=4 if axis else 1, num_examples=64,
    num_classes=CLASSES, axis=axis, dtype=dtype,
    given={'encoder': _frozen(), 'teacher': _teacher()},
  )._replace(**fields)  # fmt: skip
  encoder = functools.partial(TinyEncoder, dtype=jnp.dtype(dtype))
  return METHODS[name](encoder, run, **(arguments | changes))


def batch_of(name, seed=0, rows=BATCH):
  rng = np.random.default_rng(seed)
  _, views = CASES[name]
  return {
    # From the third view on small crops, as methods with more than two have them.
    'views': tuple(
      rng.normal(size=(rows, *(2 * (SIZE if view < 2 else SIZE // 2,)), 3)).astype(np.float32)
      for view in range(views)
    ),
    'index': np.arange(rows, dtype=np.int32),
    'epoch': np.zeros(rows, np.int32),
    'label': rng.integers(0, CLASSES, rows).astype(np.int32),
  }


def pure_step(method, axis=collectives.AXIS, accumulate=1, traces=None):
  def augment(batch, step):
    del step
    if traces is not None:
      traces.append(1)
    return batch

  tx = optax.sgd(0.1, momentum=0.9)
  step = functools.partial(
    train_step, method=method, tx=tx, augment=augment, axis=axis, accumulate=accumulate
  )
  return step, functools.partial(init_state, method, tx)


@functools.cache
def run(name, steps, *, how=mapping.spmd, axis=collectives.AXIS, accumulate=1, **changes):
  """Trains a few steps; returns the state and the last metrics on the host."""
  step, create = pure_step(make(name, axis, accumulate=accumulate, **changes), axis, accumulate)
  state = mapping.replicate(create(batch_of(name), 0))
  mapped = how(step)
  for number in range(steps):
    batch = batch_of(name, seed=number)
    state, metrics = mapped(state, mapping.shard(batch) if how is mapping.spmd else batch)
  return mapping.fetch(state), mapping.fetch(metrics)


def assert_close(a, b, tolerance):
  """Within `tolerance`, of 1 or of the largest entry of the array: momentum may be large."""
  pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
  for x, y in pairs:
    scale = max(1.0, float(np.max(np.abs(y), initial=0.0)))
    np.testing.assert_allclose(x, y, rtol=tolerance, atol=tolerance * scale)


def assert_equal(a, b):
  jax.tree.map(np.testing.assert_array_equal, a, b)


def test_every_method_has_a_case():
  assert set(CASES) == set(METHODS)


@every_method
def test_step_trains_is_finite_and_compiles_once(name):
  traces = []
  step, create = pure_step(make(name), traces=traces)
  first = create(batch_of(name), 0)
  before = mapping.fetch(first)
  state, mapped = mapping.replicate(first), mapping.spmd(step)
  state, metrics = mapped(state, mapping.shard(batch_of(name)))
  once = len(traces)
  for seed in range(3):
    state, metrics = mapped(state, mapping.shard(batch_of(name, seed)))
  assert len(traces) == once, 'the step was traced again'
  assert int(state.step) == 4
  assert all(np.isfinite(value) for value in mapping.fetch(metrics).values())
  after = mapping.fetch(state)
  moved = jax.tree.map(lambda a, b: not np.array_equal(a, b), before.params, after.params)
  assert any(jax.tree.leaves(moved))


@every_method
def test_four_devices_are_one_device(name):
  four, metrics = run(name, 3)
  alone, metrics_alone = run(name, 3, how=jax.jit, axis=None)
  assert_close(four, alone, 2e-5)
  assert_close(metrics, metrics_alone, 2e-5)


@every_method
def test_shard_map_is_pmap(name):
  assert_close(run(name, 3), run(name, 3, how=mapping.spmd_shard_map), 1e-6)


@pytest.mark.parametrize(
  ('name', 'accumulate'), [*((name, 2) for name in sorted(METHODS)), ('byol', 4)]
)
def test_accumulation_does_not_depend_on_devices(name, accumulate):
  four, _ = run(name, 2, accumulate=accumulate)
  alone, _ = run(name, 2, how=jax.jit, axis=None, accumulate=accumulate)
  assert int(four.step) == 2
  # Batch statistics over 8 examples amplify rounding; other micro-batches would differ by 1e-2.
  assert_close(four, alone, 1e-4)


@every_method
def test_replicas_are_equal(name):
  """What would come back from every device, were it not assumed to be the same."""
  step, create = pure_step(make(name))
  state = create(batch_of(name), 0)
  batch = jax.tree.map(lambda x: x.reshape(4, BATCH // 4, *x.shape[1:]), batch_of(name))
  outputs = jax.vmap(step, in_axes=(None, 0), axis_name=collectives.AXIS)(state, batch)
  for leaf in jax.tree.leaves(outputs):
    np.testing.assert_allclose(leaf, np.broadcast_to(leaf[:1], leaf.shape), rtol=1e-6, atol=1e-7)


@every_method
def test_resume_is_bit_exact(name, tmp_path):
  step, create = pure_step(make(name))
  mapped = mapping.spmd(step)
  example = batch_of(name)
  state = mapping.replicate(create(example, 0))
  checkpoints = checkpoint.Checkpoints(tmp_path)
  for number in range(4):
    if number == 2:
      checkpoints.save(2, state, {'loss': 1.0})
    state, _ = mapped(state, mapping.shard(batch_of(name, number)))
  restored = checkpoints.restore(jax.eval_shape(create, example, 0), 2)
  checkpoints.close()
  assert type(restored) is type(state)
  again = mapping.replicate(restored)
  for number in (2, 3):
    again, _ = mapped(again, mapping.shard(batch_of(name, number)))
  assert_equal(mapping.fetch(state), mapping.fetch(again))


@every_method
def test_bfloat16_compute_keeps_float32_state_and_loss(name):
  state, metrics = run(name, 2, dtype='bfloat16')
  for leaf in jax.tree.leaves((state.params, state.method_state)):
    assert leaf.dtype in (np.float32, np.int32, np.uint32)
  assert metrics['loss'].dtype == np.float32 and np.isfinite(metrics['loss'])


@every_method
def test_embedding_is_deterministic_and_per_image(name):
  method = make(name, axis=None)
  params, state = method.init(jax.random.key(0), batch_of(name))
  images = batch_of(name)['views'][0]
  together = method.embed(params, state, images)
  assert together['embedding'].shape[0] == BATCH
  alone = method.embed(params, state, images[3:4])
  for tap, value in together.items():
    np.testing.assert_allclose(value[3:4], alone[tap], rtol=1e-5, atol=1e-6)


@every_method
def test_the_network_gives_what_embed_gives(name):
  """Evaluations read a run's heads through `net`, with the weights that `params` holds by role."""
  method = make(name, axis=None)
  params, state = method.init(jax.random.key(0), batch_of(name))
  if method.net is None:
    assert name == 'linear_probe'  # An encoder alone.
    return
  images = batch_of(name)['views'][0]
  assert [role for role, _, _ in method.net.parts][0] == 'encoder'
  outputs, _ = method.net.apply(params, state.bn, images, train=False)
  for tap, value in method.embed(params, state, images).items():
    if tap in outputs:
      np.testing.assert_allclose(outputs[tap], value, rtol=1e-5, atol=1e-6)
  assert 'embedding' in outputs and set(outputs) & {'projection', 'logits'}


@every_method
def test_networks_are_where_the_protocol_says(name):
  method = make(name, axis=None)
  batch = batch_of(name)
  state = jax.eval_shape(lambda: init_state(method, optax.sgd(0.1), batch, 0))

  def read(path):
    return functools.reduce(lambda tree, field: getattr(tree, field, None), path, state)

  (online, statistics), (target, target_statistics) = (
    [read(path) for path in NETWORKS[network]] for network in ('online', 'target')
  )
  if method.net is not None:
    roles = [role for role, _, _ in method.net.parts]
    assert roles[0] == 'encoder' and set(roles) == set(online) == set(statistics)
  assert bool(target) == (name in WITH_TARGET)
  if target:
    assert 'encoder' in target and set(target) == set(target_statistics)
    assert target == {role: online[role] for role in target}
    assert target_statistics == {role: statistics[role] for role in target}


ROWS, WIDTH = 1 << 14, 256
# name -> arguments that make the memory large, and how many rows it then has
MEMORIES = {
  'deepcluster_v2': ({'projector': (16, WIDTH)}, 2 * ROWS),
  'instance_discrimination': ({'projector': (WIDTH,)}, ROWS),
  'interclr': ({'projector': (16, WIDTH), 'queue_size': ROWS, 'bn_groups': 0}, 2 * ROWS),
  'moco': ({'projector': (16, WIDTH), 'queue_size': ROWS, 'bn_groups': 0}, ROWS),
  'nnclr': ({'projector': (16, WIDTH), 'predictor': (16, WIDTH), 'queue_size': ROWS}, ROWS),
  'simclr': ({'projector': (16, WIDTH), 'memory_size': ROWS}, ROWS),
  'swav': ({'projector': (16, WIDTH), 'queue_size': ROWS}, 2 * ROWS),
}


@pytest.mark.parametrize('accumulate', [1, 2])
@pytest.mark.parametrize('name', sorted(MEMORIES))
def test_memories_are_written_in_place(name, accumulate):
  changes, rows = MEMORIES[name]
  setting = {'num_examples': ROWS, 'batch_size': 2 * accumulate, 'num_devices': 1}
  method = make(name, None, accumulate=accumulate, setting=setting, **changes)
  step, create = pure_step(method, None, accumulate)
  batch = batch_of(name, rows=2 * accumulate)
  state = jax.eval_shape(lambda: create(batch, 0))
  compiled = jax.jit(step, donate_argnums=0).lower(state, batch).compile()
  # What grows with the memory, such as similarities of a small batch with it, is far smaller.
  assert compiled.memory_analysis().temp_size_in_bytes < 4 * rows * WIDTH / 3


def test_a_batch_with_a_gradient_that_is_not_finite_is_not_remembered():
  method = make('moco', None, setting={'num_devices': 1})
  step, create = pure_step(method, None)
  batch = batch_of('moco')
  state = create(batch, 0)
  good, _ = jax.jit(step)(state, batch)
  assert int(good.method_state.queue.pointer) == 2 * BATCH
  batch['views'][0][3] = np.nan
  bad, metrics = jax.jit(step)(state, batch)
  assert not np.isfinite(metrics['grad_norm'])
  before, after = state.method_state.queue, bad.method_state.queue
  jax.tree.map(np.testing.assert_array_equal, after, before)


@pytest.mark.parametrize('name', sorted(set(METHODS) - {'linear_probe', 'supervised'}))
def test_labels_cannot_leak(name):
  """The probe learns from garbage; everything else is bit-equal."""
  head = stack((('probe', 'logits', heads.LinearHead(CLASSES)),))
  method = with_online_probe(
    make(name),
    lambda key, x: head.init(key, x)[0]['probe'],
    lambda params, x: head.apply({'probe': params}, {'probe': {}}, x, train=True)[0]['logits'],
    lambda logits, labels: (classification.cross_entropy(logits, labels), {}),
  )
  states = []
  for garbage in (0, 1):
    step, create = pure_step(method)
    state, mapped = mapping.replicate(create(batch_of(name), 0)), mapping.spmd(step)
    for number in range(3):
      batch = batch_of(name, number)
      batch['label'] = (batch['label'] + garbage * (1 + number)) % CLASSES
      state, metrics = mapped(state, mapping.shard(batch))
    states.append((mapping.fetch(state), mapping.fetch(metrics)))
  (right, right_metrics), (wrong, wrong_metrics) = states
  assert not np.array_equal(
    right.params['probe']['linear1']['kernel'], wrong.params['probe']['linear1']['kernel']
  )
  own = [{k: v for k, v in s.params.items() if k != 'probe'} for s in (right, wrong)]
  assert_equal(*own)
  assert_equal(right.method_state, wrong.method_state)
  for metric in right_metrics:
    if not metric.startswith('probe/'):
      np.testing.assert_array_equal(right_metrics[metric], wrong_metrics[metric])


def test_probe_does_not_change_the_encoder():
  """Training with and without a probe: the encoder is the same."""
  head = stack((('probe', 'logits', heads.LinearHead(CLASSES)),))
  plain, _ = run('byol', 3)
  watched = with_online_probe(
    make('byol'),
    lambda key, x: head.init(key, x)[0]['probe'],
    lambda params, x: head.apply({'probe': params}, {'probe': {}}, x, train=True)[0]['logits'],
    lambda logits, labels: (classification.cross_entropy(logits, labels), {}),
  )
  step, create = pure_step(watched)
  state, mapped = mapping.replicate(create(batch_of('byol'), 0)), mapping.spmd(step)
  for number in range(3):
    state, _ = mapped(state, mapping.shard(batch_of('byol', number)))
  assert_close(plain.params['encoder'], mapping.fetch(state).params['encoder'], 1e-7)


def test_linear_probe_never_touches_the_encoder():
  state, _ = run('linear_probe', 4)
  before_params, before_bn, _ = _frozen()
  assert_equal(state.method_state.params, mapping.fetch(before_params))
  assert_equal(state.method_state.bn, mapping.fetch(before_bn))


def test_stacked_probe_heads_are_separate_runs():
  """Two heads side by side are one head alone, twice."""
  two, _ = run('linear_probe', 3)
  one, _ = run('linear_probe', 3, num_heads=1)
  for head in range(2):
    np.testing.assert_allclose(
      two.params['head']['kernel'][head], one.params['head']['kernel'][0], rtol=1e-5, atol=1e-6
    )
