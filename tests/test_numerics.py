"""Numbers that go wrong: steps that are skipped, batches that teach nothing, batches of one."""

import collections
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from byoljax import config as config_lib
from byoljax.devices import collectives, mapping
from byoljax.methods import METHODS
from byoljax.plan import flops
from byoljax.step import Measured, Skipping, init_state, train_step
from byoljax.train.record import Cadence, Record
from byoljax.train.run import _diagnosis
from byoljax.workdir import metrics
from tests.methods.test_contract import BATCH, MEMORIES, ROWS, WIDTH, batch_of, make
from tests.paths import ROOT

every_method = pytest.mark.parametrize('name', sorted(METHODS))
# Which make whole numbers of their images: what is not finite is hidden before any loss is.
DISCRETE = {'image_gpt', 'masked_tokens', 'pixelcnn', 'pixelcnn_pp', 'prior'}


def stepper(name, axis=None, accumulate=1, skip=True, rows=BATCH, **changes):
  """(create, step) of a method; on one device unless an axis is named."""
  setting = {'batch_size': rows, 'num_devices': 4 if axis else 1}
  method = make(name, axis, accumulate=accumulate, setting=setting, **changes)
  if name in DISCRETE:
    method = method._replace(loss=functools.partial(spoilt_with_its_images, method.loss))
  tx = optax.sgd(0.1, momentum=0.9)
  step = functools.partial(
    train_step, method=method, tx=tx, augment=with_mean, axis=axis,
    accumulate=accumulate, skip_non_finite=skip,
  )  # fmt: skip
  return functools.partial(init_state, method, tx, skip_non_finite=skip), step


def spoilt_with_its_images(loss, params, method_state, batch, *rest):
  value, aux = loss(params, method_state, batch, *rest)
  return value * (1 + 0 * batch['mean']), aux


def with_mean(batch, step):
  del step
  return batch | {'mean': batch['views'][0].mean()}


def spoilt(batch, value=np.nan):
  views = [view.copy() for view in batch['views']]
  views[0][3] = value
  return batch | {'views': tuple(views)}


def assert_equal(a, b):
  jax.tree.map(np.testing.assert_array_equal, a, b)


def counts(state):
  return tuple(int(x) for x in state.opt_state[1:])


# Not the linear probe: XLA's relu on a CPU may make 0 of NaN, and nothing behind a frozen encoder's
# last one is then spoilt. Everywhere else batch normalization spreads it.
@pytest.mark.parametrize(
  'name',
  [
    # A moving target with a queue, and plain; the others take minutes.
    name if name in ('moco', 'supervised') else pytest.param(name, marks=pytest.mark.slow)
    for name in sorted(set(METHODS) - {'linear_probe'})
  ],
)
def test_a_spoilt_step_changes_nothing_and_degenerate_batches_are_finite(name):
  create, step = stepper(name)
  step = jax.jit(step)
  state, metrics_ = step(create(batch_of(name), 0), batch_of(name))
  assert counts(state) == (0, 0, 0) and int(metrics_['skipped']) == 0
  after, metrics_ = step(state, spoilt(batch_of(name, 1)))
  assert int(after.step) == 2 and counts(after) == (1, 1, 1) and int(metrics_['skipped']) == 1
  masked = [metric for metric in metrics_.values() if isinstance(metric, Measured)]
  assert all(metric.value == 0 and not metric.known for metric in masked)
  assert_equal(
    (after.params, after.opt_state.inner, after.method_state),
    (state.params, state.opt_state.inner, state.method_state),
  )
  # As if the step's number had moved by itself.
  state = state.replace(step=state.step + 1)
  good, _ = step(after, batch_of(name, 2))
  due, _ = step(state, batch_of(name, 2))
  assert counts(good) == (1, 0, 1)
  assert_equal(
    good.replace(opt_state=good.opt_state.inner), due.replace(opt_state=due.opt_state.inner)
  )
  plain = batch_of(name, 3)
  for changed in (
    {'views': tuple(np.full_like(view, 0.3) for view in plain['views'])},  # one gray everywhere
    {'views': tuple(np.zeros_like(view) for view in plain['views'])},
    {'views': tuple(np.broadcast_to(view[:1], view.shape) for view in plain['views'])},
    {'label': np.zeros_like(plain['label'])},  # one class only
    {'index': np.zeros_like(plain['index'])},  # one example many times
  ):
    good, metrics_ = step(good, plain | changed)
    assert np.isfinite(metrics_['loss']) and int(metrics_['skipped']) == 1, changed.keys()
  for leaf in jax.tree.leaves(mapping.fetch(good)):
    assert np.all(np.isfinite(leaf.astype(np.float64)))


@pytest.mark.parametrize(
  ('name', 'accumulate'),
  [
    ('byol', 2),
    pytest.param('moco', 1, marks=pytest.mark.slow),
    pytest.param('swav', 1, marks=pytest.mark.slow),
  ],
)
def test_all_devices_skip_together(name, accumulate):
  """Only one of four devices sees the bad example."""
  create, step = stepper(name, collectives.AXIS, accumulate)
  mapped = mapping.spmd(step, donate=False)
  state = mapping.replicate(create(batch_of(name), 0))
  state, _ = mapped(state, mapping.shard(batch_of(name)))
  after, _ = mapped(state, mapping.shard(spoilt(batch_of(name, 1), np.inf)))
  assert counts(after) == (1, 1, 1) and int(after.step) == 2
  ours = mapping.fetch((after.params, after.opt_state.inner, after.method_state))
  due = mapping.fetch((state.params, state.opt_state.inner, state.method_state))
  assert_equal(ours, due)
  for leaf in jax.tree.leaves(after):
    first, *others = (np.asarray(shard.data) for shard in leaf.addressable_shards)
    for other in others:
      np.testing.assert_array_equal(first, other)


@pytest.mark.parametrize('name', ['byol', pytest.param('moco', marks=pytest.mark.slow)])
def test_without_a_bad_number_skipping_changes_nothing(name):
  """Another compiled program, the same numbers up to rounding."""
  states = []
  for skip in (False, True):
    create, step = stepper(name, skip=skip)
    step, state = jax.jit(step), create(batch_of(name), 0)
    for seed in range(3):
      state, _ = step(state, batch_of(name, seed))
    inner = state.opt_state.inner if skip else state.opt_state
    states.append((state.params, inner, state.method_state))
  jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5), *states)


# In float32, too, features of counting die at 0.05, and the discriminator diverges.
RATES = {'context_encoder': 0.005, 'counting': 0.005}


@pytest.mark.slow
@every_method
def test_bfloat16_needs_no_loss_scale(name):
  """300 steps: its exponents reach as far as float32's, so small gradients do not vanish."""
  steps = 300
  setting = {'batch_size': BATCH, 'num_devices': 1, 'total_steps': steps}
  method = make(name, None, dtype='bfloat16', setting=setting)
  tx = optax.sgd(optax.cosine_decay_schedule(RATES.get(name, 0.05), steps), momentum=0.9)
  step = functools.partial(
    train_step, method=method, tx=tx, augment=lambda batch, step: batch, axis=None
  )
  step, seen = jax.jit(step, donate_argnums=0), []
  state = init_state(method, tx, batch_of(name), 0)
  start = mapping.fetch(state.params)
  batches = [batch_of(name, seed) for seed in range(8)]
  for number in range(steps):
    state, metrics_ = step(state, batches[number % 8])
    seen.append((metrics_['loss'], metrics_['grad_norm']))
  seen = np.array(jax.device_get(seen))
  assert seen.shape == (steps, 2) and np.all(np.isfinite(seen))
  assert np.all(seen[:, 1] > 0), 'a gradient vanished'
  for leaf in jax.tree.leaves(mapping.fetch(state)):
    assert np.all(np.isfinite(leaf.astype(np.float64)))
  moved = jax.tree.map(lambda a, b: not np.array_equal(a, b), start, mapping.fetch(state.params))
  assert any(jax.tree.leaves(moved))


# Sums, roots and logarithms: those of losses, of batch and layer normalization, of norms.
NOT_IN_BFLOAT16 = {
  'cumlogsumexp', 'cumsum', 'log', 'log1p', 'psum', 'psum_invariant', 'reduce_prod', 'reduce_sum',
  'rsqrt', 'sqrt',
}  # fmt: skip


def operations_in_bfloat16(jaxpr):
  """How often each operation has a result in bfloat16, also within loops and branches."""
  found = collections.Counter(
    each.primitive.name
    for each in jaxpr.eqns
    if any(getattr(out.aval, 'dtype', None) == jnp.bfloat16 for out in each.outvars)
  )
  for each in jaxpr.eqns:
    for inner in flops._inner(each.params.values()):
      found += operations_in_bfloat16(inner)
  return found


@pytest.mark.parametrize(
  'name',
  [
    pytest.param(name, marks=() if name in ('byol', 'image_gpt', 'vq_vae') else pytest.mark.slow)
    for name in sorted(METHODS)
  ],
)
def test_nothing_is_summed_up_in_bfloat16(name):
  """On a CPU the numbers cannot tell: XLA sums in float32 there whatever it is told."""
  method, tx = make(name, None, dtype='bfloat16'), optax.adamw(0.1)
  step = functools.partial(
    train_step, method=method, tx=tx, augment=lambda batch, step: batch, axis=None
  )
  state = jax.eval_shape(lambda: init_state(method, tx, batch_of(name), 0))
  traced, after = jax.make_jaxpr(step, return_shape=True)(state, batch_of(name))
  found = operations_in_bfloat16(traced.jaxpr)
  # Of the linear probe, all but a linear layer in float32 is given.
  assert found['convert_element_type'] or name in ('linear_probe', 'distillation')
  assert not found.keys() & NOT_IN_BFLOAT16
  # Those of a softmax would be more: the gradient of each exact GELU, by erfc, has one.
  assert found['exp'] <= found['erfc']
  assert all(leaf.dtype != jnp.bfloat16 for leaf in jax.tree.leaves(after))


def test_counts_in_a_row():
  create, step = stepper('supervised')
  step, state, seen = jax.jit(step), create(batch_of('supervised'), 0), []
  for bad in (1, 1, 0, 1, 1, 1, 0, 1):
    batch = batch_of('supervised')
    state, metrics_ = step(state, spoilt(batch) if bad else batch)
    seen.append((*counts(state), int(metrics_['skipped_in_a_row'])))
  assert seen == [
    (1, 1, 1, 1), (2, 2, 2, 2), (2, 0, 2, 2), (3, 1, 2, 2), (4, 2, 2, 2), (5, 3, 3, 3),
    (5, 0, 3, 3), (6, 1, 3, 3),
  ]  # fmt: skip


@pytest.mark.parametrize(
  'name', [pytest.param('instance_discrimination', marks=pytest.mark.slow), 'moco']
)
def test_memories_are_still_written_in_place(name):
  changes, rows = MEMORIES[name]
  setting = {'num_examples': ROWS, 'batch_size': 2, 'num_devices': 1}
  method = make(name, None, setting=setting, **changes)
  tx = optax.sgd(0.1, momentum=0.9)
  step = functools.partial(
    train_step, method=method, tx=tx, augment=lambda batch, step: batch, axis=None,
    skip_non_finite=True,
  )  # fmt: skip
  batch = batch_of(name, rows=2)
  state = jax.eval_shape(lambda: init_state(method, tx, batch, 0, skip_non_finite=True))
  compiled = jax.jit(step, donate_argnums=0).lower(state, batch).compile()
  assert compiled.memory_analysis().temp_size_in_bytes < 4 * rows * WIDTH / 3


# What a batch of one cannot give, and what is said then. The others train on it.
NEEDS_MORE = {
  **dict.fromkeys(('bridge', 'dino', 'moco_v3', 'nnclr', 'simclr', 'triplet'), 'at least 2 images'),
  'barlow_twins': 'at least 2 rows',
  'vicreg': 'at least 2 rows',
  'w_mse': 'the batch larger',
  'counting': 'needs at least two',
  'fixmatch': 'no whole number of units',
}


# By default what is said, and a part of the others.
@pytest.mark.parametrize(
  'name',
  [
    pytest.param(name, marks=() if name in NEEDS_MORE or place % 4 == 0 else pytest.mark.slow)
    for place, name in enumerate(sorted(METHODS))
  ],
)
def test_batches_of_one(name):
  changes = {'bn_groups': 0} if name in ('moco', 'interclr') else {}
  changes = {'memory_size': 0} if name == 'simclr' else changes

  def trace():
    create, step = stepper(name, rows=1, **changes)
    batch = batch_of(name, rows=1)
    return jax.eval_shape(step, jax.eval_shape(lambda: create(batch, 0)), batch)

  if name in NEEDS_MORE:
    with pytest.raises(ValueError, match=NEEDS_MORE[name]):
      trace()
  else:
    assert isinstance(trace()[0].opt_state, Skipping)


class FakeRun:
  """As much of a run as a record of it needs."""

  def __init__(self, max_skipped=0):
    self.max_skipped = max_skipped
    self.length = type('Length', (), {'total_steps': 9, 'steps_per_epoch': 3, 'batch_size': 2})
    self.schedule = lambda step: 0.1
    self.earlier = ()


def test_the_run_stops_after_so_many_in_a_row(tmp_path):
  run = FakeRun(max_skipped=3)
  with Record(run, tmp_path, Cadence(), 0, ('loss', 'grad_norm')) as record:
    row = {'loss': np.nan, 'grad_norm': np.inf, 'skipped': 2, 'skipped_in_a_row': 2}
    row |= {'tau': Measured(np.float32(0), np.bool_(False)), 'epoch': Measured(2.0, True)}
    read = record.read(4, row)
    assert read['skipped'] == 2 and 'loss' not in read and 'tau' not in read
    record.write(4, read)
    with pytest.raises(FloatingPointError, match='3 steps in a row up to step 7 .*max_skipped=3'):
      record.read(7, row | {'skipped': 5, 'skipped_in_a_row': 3})
  assert metrics.read(tmp_path)[0]['skipped'] == 2
  with (
    Record(FakeRun(), tmp_path, Cadence(), 0, ('loss',)) as record,
    pytest.raises(FloatingPointError, match='loss became nan'),
  ):
    record.read(4, {'loss': np.nan})


def test_what_is_not_due_is_masked_and_not_nan():
  """NaN as 'no value' ends a run with JAX_DEBUG_NANS, after minutes of recursion."""
  diagnose = jax.jit(jax.vmap(_diagnosis(2, 9), (0, None), axis_name=collectives.AXIS))
  embedding = np.random.default_rng(0).normal(size=(1, 8, 4)).astype(np.float32)
  for step, due in ((0, False), (1, True), (8, True)):
    found = diagnose(embedding, step)
    assert set(found) == {'collapse/std', 'collapse/rank'}
    for metric in found.values():
      assert bool(np.all(metric.known)) == due and bool(np.all(metric.value == 0)) != due


def test_policies_are_checked():
  for field, value, word in (
    ('train.non_finite', 'skp', "did you mean 'skip'"),
    ('train.max_skipped', '0', 'at least 1'),
  ):
    config = config_lib.load(f'{ROOT}/configs/byol.py:smoke', [(field, value)])
    with pytest.raises(config_lib.ConfigError, match=word):
      config_lib.skips_non_finite(config)
