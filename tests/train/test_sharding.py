"""A sharded state trains like a replicated one and leaves no trace in checkpoints."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from byoljax import config as config_lib
from byoljax import optim
from byoljax.data.sources import datasets
from byoljax.devices import collectives, mapping
from byoljax.ops import trees
from byoljax.optim import lars
from byoljax.step import init_state, train_step
from byoljax.train import assemble, sharding
from byoljax.workdir import checkpoint
from tests.methods import test_protocol as toys

OPTIMIZERS = {
  'adamw': {'weight_decay': 0.05, 'base_lr': 0.01},
  'sgd': {'weight_decay': 1e-4, 'nesterov': True},
  'lars': {'weight_decay': 1e-5},
  'lars_simclr': {'weight_decay': 1e-5, 'clip_norm': 0.5},
  'larc': {'weight_decay': 1e-5, 'clip_tensor_norm': 0.3},
  'larc_clip': {'weight_decay': 1e-5, 'exclude_bias_and_norm': False},
}


def recipe(tiny, *more):
  name, *rest = [*tiny, *more]
  overrides = [tuple(each.removeprefix('--config.').split('=', 1)) for each in rest]
  return config_lib.load(name.removeprefix('--config='), overrides)


@functools.cache
def _source(path):
  return datasets.load('npz', 'pretrain', data_dir=path)


def assembled(tiny, optimizer, shard, *more, **options):
  fields = {'name': optimizer, **OPTIMIZERS[optimizer]}
  config = recipe(
    tiny,
    f'--config.train.shard_state={str(shard).lower()}',
    *(f'--config.optim.{name}={value}' for name, value in fields.items()),
    *more,
  )
  return assemble.from_config(config, _source(config.data.dir), **options)


def _batch(rows, images, labels):
  epoch = np.zeros(len(rows), np.int32)
  return {'image': images, 'index': rows.astype(np.int32), 'epoch': epoch, 'label': labels}


def steps(run, count=4, state=None):
  """So many steps on fixed batches; the state as it is placed, and the last metrics."""
  state = run.layout.place(run.create()) if state is None else state
  size = run.length.batch_size
  for number in range(count):
    rows = (np.arange(size) * 7 + number * 13) % run.source.size
    images, labels = run.source.read(rows)
    batch = _batch(rows, images, labels)
    state, values = run.step(state, mapping.shard(batch))
    jax.block_until_ready(state)
  return state, mapping.fetch(values)


def assert_close(one, other, tolerance):
  pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
  for a, b in pairs:
    a, b = np.asarray(a), np.asarray(b)
    assert a.shape == b.shape and a.dtype == b.dtype
    np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


def by_name(tree, left_out):
  named = {optim.path_name(path): x for path, x in jax.tree_util.tree_leaves_with_path(tree)}
  return {name: x for name, x in named.items() if not name.endswith(left_out)}


@pytest.mark.slow
@pytest.mark.parametrize('optimizer', OPTIMIZERS)
def test_a_sharded_state_trains_like_a_replicated_one(tiny, optimizer):
  """Four steps of BYOL; each device holds a quarter, but for the padding of each array."""
  replicated, sharded = (assembled(tiny, optimizer, shard) for shard in (False, True))
  expected, values = steps(replicated)
  found, ours = steps(sharded)
  start = jax.tree.leaves(replicated.create().params)
  moved = zip(start, jax.tree.leaves(expected.params), strict=True)
  assert any(np.abs(a - b).max() > 1e-3 for a, b in moved)
  # Adam divides by the gradient's size, which amplifies the rounding of the smallest. Biases in
  # front of batch normalization have no gradient but rounding, some 3e-9: Adam moves them at
  # random, and with them the running means.
  # LARS differs by 1.7e-6, as its norms are added up in another order; five times that.
  tolerance = 2e-5 if optimizer == 'adamw' else 1e-5
  left_out = ('linear1/bias', 'bn1/mean') if optimizer == 'adamw' else ()
  gathered = by_name(sharded.layout.gather(found), left_out)
  assert_close(gathered, by_name(expected, left_out), tolerance)
  for name in ('loss', 'grad_norm', 'probe/grad_norm'):
    assert ours[name] == pytest.approx(values[name], rel=1e-5)
  for own, other in (
    (found.opt_state, expected.opt_state),
    (found.method_state.target_params, expected.method_state.target_params),
  ):
    likes = jax.tree.leaves(other)
    share = sum(x.dtype.itemsize * (-(-x.size // 4) if x.ndim else 1) for x in likes)
    assert share < 0.27 * sum(x.nbytes for x in likes)
    pieces = [x for leaf in jax.tree.leaves(own) for x in leaf.addressable_shards]
    for device in jax.local_devices():
      assert sum(x.data.nbytes for x in pieces if x.device == device) == share


_QUEUE = '--config.method.queue_size=42'  # Four devices cannot share it evenly.
_CRITERION = '--config.method.criterion='
# recipe, what is changed in it, the memory that devices share
OTHERS = {
  'moco': ('moco', (_QUEUE,), 'queue.items'),
  'moco_v3': ('moco_v3', (), ''),
  'dino': ('dino', (), ''),
  'interclr': ('interclr', (_QUEUE,), 'queue.items'),
  'swav': ('swav', (), ''),
  'nnclr': ('nnclr', (_QUEUE,), 'queue.items'),
  'simclr': ('simclr', ('--config.method.memory_size=42',), 'queue.items'),
  'simclr, chunks': (
    'simclr', ('--config.method.memory_size=42', '--config.method.chunk=4'), 'queue.items',
  ),
  'multi_task': (
    'multi_task:byol,moco',
    (
      '--config.method.parts.moco.queue_size=42',
      '--config.views.view3.size=16',
      '--config.views.view4.size=16',
    ),
    'parts.moco.queue.items',
  ),
  'softmax': ('instance_discrimination', (f'{_CRITERION}full_softmax',), 'bank'),
  'nce': ('instance_discrimination', (f'{_CRITERION}nce',), 'bank'),
  'infonce': ('instance_discrimination', (f'{_CRITERION}infonce',), 'bank'),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize('name', OTHERS)
def test_other_methods(npz, name):
  """Every method with a target or a memory, and one whose `post_step` changes parameters."""
  recipe_name, changes, memory = OTHERS[name]
  recipe_name, _, options = recipe_name.partition(':')
  views = [] if recipe_name == 'instance_discrimination' else ['--config.views.view2.size=16']
  run = [
    assembled(
      [f'--config=configs/{recipe_name}.py:smoke,{options}', '--config.data.name=npz',
       f'--config.data.dir={npz}', '--config.views.view1.size=16', *views],
      'lars', shard, *changes,
    )
    for shard in (False, True)
  ]  # fmt: skip
  (expected, values), (found, ours) = (steps(each, 3) for each in run)
  assert_close(run[1].layout.gather(found), expected, 1e-5)
  assert ours['loss'] == pytest.approx(values['loss'], rel=1e-5)
  if memory:
    path = memory.split('.')
    whole, own = (trees.at(state.method_state, path) for state in (expected, found))
    assert own.addressable_shards[0].data.shape == (1, -(-len(whole) // 4), whole.shape[1])


def test_phases_are_sharded_alike():
  """Each has an optimizer state of its own, which the devices share."""
  method, tx = toys.two_players(), optax.adam(0.01)
  create = functools.partial(init_state, method, tx, toys.batch_of(), 0)
  own, own_tx, placement = sharding.shard(method, tx, jax.eval_shape(create))
  step = functools.partial(
    train_step, method=own, tx=own_tx, augment=lambda batch, step: batch, axis=collectives.AXIS
  )
  mapped = mapping.spmd(step, in_axes=(placement.axes, 0), out_axes=(placement.axes, None))
  state = placement.place(create())
  for number in range(3):
    state, _ = mapped(state, mapping.shard(toys.batch_of(number)))
  assert any(x.ndim == 2 and x.shape[0] == 4 for x in jax.tree.leaves(state.opt_state))
  expected, _ = toys.trained(method, tx, axis=collectives.AXIS)
  # Adam divides by the gradient's size, which amplifies the rounding of the smallest.
  assert_close(placement.gather(state), expected, 2e-5)


@pytest.mark.parametrize('optimizer', OPTIMIZERS)
def test_norms_are_those_of_gathered_tensors(optimizer):
  """The optimizer alone, ten updates of tensors that four devices cannot share evenly."""
  rng = np.random.default_rng(1)
  shapes = {'dense': {'kernel': (5, 7), 'bias': (7,)}, 'norm': {'scale': (3,)}}
  draw = functools.partial(
    jax.tree.map, lambda s: jnp.asarray(rng.normal(size=s), jnp.float32), shapes,
    is_leaf=lambda s: isinstance(s, tuple),
  )  # fmt: skip
  params = draw()
  gradients = jax.tree.map(lambda *each: jnp.stack(each), *(draw() for _ in range(10)))
  fields = {name: value for name, value in OPTIMIZERS[optimizer].items() if name != 'base_lr'}
  schedule = optim.make_schedule('cosine', 0.5, total_steps=20, warmup_steps=3)

  def train(sharded):
    norm = sharding.norm_over_devices() if sharded else lars.l2_norm
    tx = optim.make_optimizer(optimizer, schedule=schedule, norm=norm, **fields)
    state = tx.init(params)
    if sharded:
      state = jax.tree.map(collectives.shard, state)
      tx = sharding.shard_optimizer(tx, collectives.AXIS)

    def move(carry, gradient):
      p, state = carry
      updates, state = tx.update(gradient, state, p)
      return (optax.apply_updates(p, updates), state), None

    return jax.lax.scan(move, (params, state), gradients)[0][0]

  found = jax.pmap(lambda _: train(True), axis_name=collectives.AXIS)(np.zeros(4))
  assert_close(jax.tree.map(lambda x: x[0], found), jax.jit(train, static_argnums=0)(False), 5e-6)


def test_a_run_changes_its_placement(tiny, tmp_path):
  """Saved sharded, restored replicated, and the other way round: bit for bit."""
  replicated, sharded = (
    assembled(tiny, 'lars', shard, '--config.encoder.name=pixels') for shard in (False, True)
  )
  state, _ = steps(sharded, count=2)
  saved = sharded.layout.gather(state)
  with checkpoint.Checkpoints(tmp_path) as checkpoints:
    checkpoints.save(2, saved, {})
    checkpoints.wait()
    restored = checkpoints.restore(jax.eval_shape(replicated.create))
  assert_close(restored, mapping.fetch(saved), 0)
  again = sharded.layout.gather(sharded.layout.place(restored))
  assert_close(mapping.fetch(again), restored, 0)
  found, _ = steps(sharded, state=sharded.layout.place(restored))
  expected, _ = steps(replicated, state=replicated.layout.place(restored))
  # Norms are added up in another order: four steps of LARS differ by 8e-7 of the largest entries.
  assert_close(sharded.layout.gather(found), expected, 5e-6)


@pytest.mark.slow
def test_a_step_that_is_skipped_changes_nothing_in_a_sharded_state(tiny):
  run = assembled(tiny, 'adamw', True, '--config.train.non_finite=skip')
  state, _ = steps(run, count=1)
  before = mapping.fetch(run.layout.gather(state))
  poisoned = jax.tree.map(lambda x: x * jnp.nan, before.params['predictor'])
  broken = before.replace(params=before.params | {'predictor': poisoned})
  after, values = steps(run, count=1, state=run.layout.place(broken))
  found = mapping.fetch(run.layout.gather(after))
  assert values['skipped'] == 1
  assert_close(found.opt_state.inner, before.opt_state.inner, 0)


@pytest.mark.slow
def test_many_steps_on_data_that_live_on_the_devices(tiny):
  run = assembled(tiny, 'lars', True)
  from byoljax.data.batches import order, resident

  plan = order.Order(run.source.size, run.length.batch_size, 0)
  state = run.layout.place(run.create())
  data = resident.place(run.source)
  for number in range(2):
    index = resident.examples(plan, number, 1)
    state, values = run.many_steps(state, data, index, np.int32(1))
    jax.block_until_ready(state)
  assert int(state.step) == 2 and np.isfinite(mapping.fetch(values)['loss'])


@pytest.mark.slow
def test_the_twin_on_shard_map(tiny):
  """What plans compile: the same numbers, and the compiler's arguments shrink."""
  mapped = mapping.spmd_shard_map
  sharded, plain = (assembled(tiny, 'adamw', shard, mapped=mapped) for shard in (True, False))
  shapes = sharded.layout.sharded_shapes(jax.eval_shape(sharded.create), 4)

  def laid_out(x, like):
    x = np.asarray(x)
    return x if x.shape == like.shape else np.pad(x.reshape(-1), (0, like.size - x.size))

  flat = jax.tree.map(laid_out, sharded.create(), shapes)
  rows = np.arange(sharded.length.batch_size)
  images, labels = sharded.source.read(rows)
  batch = _batch(rows, images, labels)
  state, _ = sharded.step(flat, batch)
  expected, _ = plain.step(plain.create(), batch)
  assert_close(state.params, expected.params, 2e-5)


@pytest.mark.parametrize('shape', [(), (1,), (7,), (8,), (3, 5), (2, 3, 4)])
def test_shards_are_gathered(shape):
  """All four devices together give back the array."""
  x = np.random.default_rng(0).normal(size=shape).astype(np.float32)

  def one(x):
    own = collectives.shard(x)
    assert own.shape == ((-(-x.size // 4),) if x.ndim else ())
    return collectives.unshard(own, x.shape)

  found = jax.pmap(one, axis_name=collectives.AXIS)(np.broadcast_to(x, (4, *shape)))
  for each in found:
    np.testing.assert_array_equal(each, x)


def _by_shape(params):
  return jax.tree.map(lambda x: x.ndim > 1, params)


@pytest.mark.parametrize(
  ('tx', 'sentence'),
  [
    (optax.adamw(1e-3, mask=optim.decay_mask(True)), ''),
    (optax.MultiSteps(optax.sgd(0.1, momentum=0.9), 2), ''),
    # A schedule's sums over its own table have nothing to do with the tensors.
    (optax.adam(optax.piecewise_interpolate_schedule('linear', 1.0, {3: 0.5, 9: 0.1})), ''),
    (optax.adamw(1e-3, mask=_by_shape), 'depends on their shapes'),
    (optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.1)), r'whole ones \(reduce_sum\)'),
    (optax.lars(0.1), r'whole ones \(reduce_sum\)'),
    # Noise for a shard is the same on every device, and another than that of the whole tensor.
    (optax.chain(optax.add_noise(0.1, 0.5, key=0), optax.sgd(0.1)), r'same numbers \(random_bits'),
  ],
)
def test_optimizers_that_need_whole_tensors_are_refused(tx, sentence):
  params = {'kernel': jax.ShapeDtypeStruct((3, 2), jnp.float32), 'bias': jnp.zeros(2)}
  if not sentence:
    sharding._require_shardable(tx, params, collectives.AXIS)
    return
  with pytest.raises(ValueError, match=sentence):
    sharding._require_shardable(tx, params, collectives.AXIS)
