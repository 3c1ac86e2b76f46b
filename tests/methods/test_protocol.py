"""What the protocol offers beside a loss, each shown by a toy method: `transform` and `phases`."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from byoljax import optim
from byoljax.devices import collectives, mapping
from byoljax.length import Length
from byoljax.losses import classification
from byoljax.method import (
  Aux,
  Method,
  Phase,
  default_groups,
  keep,
  transformed,
)
from byoljax.models.net import Statistics
from byoljax.optim import recipe
from byoljax.step import init_state, train_step
from byoljax.train.online_probe import with_online_probe

ROWS, SIDE, WIDTH, TURNS = 16, 4, 5, 4
RATE = 0.1


def batch_of(seed=0):
  rng = np.random.default_rng(seed)
  return {
    'views': (rng.normal(size=(ROWS, SIDE, SIDE, 1)).astype(np.float32),),
    'index': np.arange(ROWS, dtype=np.int32),
    'epoch': np.zeros(ROWS, np.int32),
    'label': rng.integers(0, 2, ROWS).astype(np.int32),
  }


def features(params, batch):
  view = batch['views'][0]
  return jnp.tanh(view.reshape(len(view), -1) @ params['encoder']['kernel'])


def kernels(key, **shapes):
  """A role with one kernel for each shape."""
  keys = jax.random.split(key, len(shapes))
  return {
    role: {'kernel': 0.3 * jax.random.normal(key, shape)}
    for key, (role, shape) in zip(keys, shapes.items(), strict=True)
  }


def embed(params, state, images):
  del state
  return {'embedding': features(params, {'views': (images,)})}


def rotation(axis):
  """RotNet (Gidaris et al. 2018, arXiv 1803.07728): by how many quarters was the image turned?"""

  def init(key, batch):
    del batch
    return kernels(key, encoder=(SIDE * SIDE, WIDTH), head=(WIDTH, TURNS)), Statistics({})

  def transform(batch, key, step):
    del step
    (view,) = batch['views']
    draw = lambda i: jax.random.randint(jax.random.fold_in(key, i), (), 0, TURNS)  # noqa: E731
    turns = jax.vmap(draw)(collectives.positions(len(view), axis))
    ways = [functools.partial(jnp.rot90, k=k) for k in range(TURNS)]
    turned = jax.vmap(lambda image, k: jax.lax.switch(k, ways, image))(view, turns)
    return batch | {'views': (turned,), 'turn': turns}

  def loss(params, state, batch, key, step):
    del key, step
    h = features(params, batch)
    logits = h @ params['head']['kernel']
    # Tells any two assignments of turns to examples apart.
    told = jnp.mean(batch['turn'] * jnp.sqrt(1.0 + batch['index']))
    return classification.cross_entropy(logits, batch['turn']), Aux(state, {'told': told}, h)

  return Method(init, loss, keep, embed, default_groups, transform=transform)


def two_players(order=('critic', 'encoder')):
  """A critic that tells images by their features, and an encoder that makes that hard."""

  def init(key, batch):
    del batch
    made = kernels(key, encoder=(SIDE * SIDE, WIDTH), critic=(WIDTH, 1), unused=(2, 2))
    return made, Statistics({'calls': jnp.zeros(())})

  def score(params, batch):
    h = features(params, batch)
    return h, (h @ params['critic']['kernel'])[:, 0]

  def critic(params, state, batch, key, step):
    del key, step
    h, s = score(params, batch)
    state = Statistics({'calls': 2 * state.bn['calls'] + 1})
    return jnp.mean(jnp.square(s - jnp.sin(s + 1.0))), Aux(state, {'critic': s.mean()}, h)

  def encoder(params, state, batch, key, step):
    del key, step
    h, s = score(params, batch)
    state = Statistics({'calls': 3 * state.bn['calls']})
    return -jnp.mean(jnp.cos(s)) + 0.1 * jnp.mean(h**2), Aux(state, {'encoder': s.mean()}, h)

  losses = {'critic': critic, 'encoder': encoder}
  phases = tuple(Phase(losses[role], (role,)) for role in order)
  return Method(init, losses[order[0]], keep, embed, default_groups, phases=phases)


def trained(method, tx, *, axis=None, steps=3, accumulate=1, skip=False, batches=batch_of):
  """(state, metrics) after some steps, on one device or on four."""
  step = functools.partial(
    train_step, method=method, tx=tx, augment=lambda batch, step: batch, axis=axis,
    accumulate=accumulate, skip_non_finite=skip,
  )  # fmt: skip
  state = init_state(method, tx, batch_of(), 0, skip_non_finite=skip)
  if axis:
    state, mapped = mapping.replicate(state), mapping.spmd(step)
  else:
    mapped = jax.jit(step)
  metrics = {}
  for number in range(steps):
    batch = batches(number)
    state, metrics = mapped(state, mapping.shard(batch) if axis else batch)
  return mapping.fetch((state, metrics))


def assert_equal(a, b):
  jax.tree.map(np.testing.assert_array_equal, a, b)


# --- transform ----------------------------------------------------------------------------------


def test_transform_makes_views_and_labels():
  batch = batch_of()
  seen = transformed(rotation(collectives.AXIS), batch, jax.random.key(1), jnp.int32(0))
  assert set(np.unique(seen['turn'])) == set(range(TURNS))
  for image, turned, k in zip(batch['views'][0], seen['views'][0], seen['turn'], strict=True):
    np.testing.assert_array_equal(np.rot90(image, int(k)), turned)


@pytest.mark.parametrize('accumulate', [pytest.param(1, marks=pytest.mark.slow), 2])
def test_labels_from_the_key_do_not_depend_on_the_devices(accumulate):
  tx = optax.sgd(RATE)
  alone, told = trained(rotation(None), tx, accumulate=accumulate)
  method = rotation(collectives.AXIS)
  four, also_told = trained(method, tx, axis=collectives.AXIS, accumulate=accumulate)
  # Wrong labels would be off by far more than the rounding of a mean, some 1e-7.
  assert told['told'] == pytest.approx(also_told['told'], rel=1e-5)
  for a, b in zip(jax.tree.leaves(alone.params), jax.tree.leaves(four.params), strict=True):
    np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)


def test_every_step_turns_anew():
  method, tx = rotation(None), optax.sgd(0.0)
  told = [float(trained(method, tx, steps=n)[1]['told']) for n in (1, 2, 3)]
  assert len(set(told)) == 3


# --- phases -------------------------------------------------------------------------------------


def test_each_phase_trains_its_roles_and_sees_the_earlier_updates():
  method, tx = two_players(), optax.sgd(RATE, momentum=0.9)
  start = mapping.fetch(init_state(method, tx, batch_of(), 0))
  after, metrics = trained(method, tx, steps=1)
  given = (start.method_state, batch_of(), None, None)
  params, values = dict(start.params), []
  for phase, opt_state in zip(method.phases, after.opt_state, strict=True):
    (role,) = phase.roles
    (value, _), grads = jax.value_and_grad(phase.loss, has_aux=True)(params, *given)
    params[role] = jax.tree.map(lambda p, g: p - RATE * g, params[role], grads[role])
    values.append(float(value))
    (trace,) = jax.tree.leaves(opt_state)
    np.testing.assert_allclose(trace, grads[role]['kernel'], rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(after.params[role]['kernel'], params[role]['kernel'], atol=1e-6)
  assert_equal(after.params['unused'], start.params['unused'])
  assert float(metrics['loss']) == pytest.approx(sum(values), rel=1e-5)
  assert {'critic', 'encoder', 'grad_norm'} <= set(metrics)
  assert float(after.method_state.bn['calls']) == 3.0, 'the critic counts first'


def test_the_order_matters():
  tx = optax.sgd(RATE)
  one, other = (
    trained(two_players(order), tx)[0] for order in (('critic', 'encoder'), ('encoder', 'critic'))
  )
  assert not np.allclose(one.params['encoder']['kernel'], other.params['encoder']['kernel'])


@pytest.mark.parametrize('accumulate', [pytest.param(1, marks=pytest.mark.slow), 2])
def test_one_phase_is_no_phase(accumulate):
  """Bit for bit."""
  method, tx = rotation(None), optax.adam(RATE)
  phases = (Phase(method.loss, ('encoder', 'head')),)
  plain, metrics = trained(method, tx, accumulate=accumulate)
  single, others = trained(method._replace(phases=phases), tx, accumulate=accumulate)
  assert_equal((plain.params, (plain.opt_state,)), (single.params, single.opt_state))
  assert_equal(metrics, others)


def test_phases_on_four_devices_and_in_micro_batches():
  """The losses are means over examples, so micro-batches change nothing."""
  method, tx = two_players(), optax.sgd(RATE)
  expected, _ = trained(method, tx)
  for found, _ in (
    trained(method, tx, axis=collectives.AXIS),
    trained(method, tx, accumulate=4),
  ):
    for a, b in zip(jax.tree.leaves(expected.params), jax.tree.leaves(found.params), strict=True):
      np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)


def test_a_probe_trains_in_the_first_phase_and_changes_nothing():
  init = lambda key, h: {'kernel': jax.random.normal(key, (WIDTH, 2))}  # noqa: E731
  apply = lambda params, h: h @ params['kernel']  # noqa: E731
  loss = lambda logits, labels: (classification.cross_entropy(logits, labels), {})  # noqa: E731
  method, tx = two_players(), optax.sgd(RATE)
  watched = with_online_probe(method, init, apply, loss)
  plain, metrics = trained(method, tx, steps=2)
  state, others = trained(watched, tx, steps=2)
  start = init_state(watched, tx, batch_of(), 0).params['probe']
  assert not np.array_equal(state.params['probe']['kernel'], start['kernel'])
  own = {role: value for role, value in state.params.items() if role != 'probe'}
  for a, b in zip(jax.tree.leaves(own), jax.tree.leaves(plain.params), strict=True):
    np.testing.assert_allclose(a, b, rtol=0, atol=1e-6)
  assert float(others['loss']) == pytest.approx(float(metrics['loss']), rel=1e-5)
  assert 'probe/grad_norm' in others


def test_a_step_is_skipped_whole():
  """The critic's gradient is finite, the encoder's is not: neither may move."""
  method, tx = two_players(), optax.sgd(RATE)
  first, second = method.phases

  def broken(params, *rest):
    value, aux = second.loss(params, *rest)
    return value * jnp.nan, aux

  method = method._replace(phases=(first, second._replace(loss=broken)))
  start = mapping.fetch(init_state(method, tx, batch_of(), 0, skip_non_finite=True))
  state, metrics = trained(method, tx, steps=1, skip=True)
  assert int(metrics['skipped']) == 1
  assert_equal((state.params, state.method_state), (start.params, start.method_state))


def test_optimizers_by_role():
  """The groups of a configuration: the critic at ten times the rate."""
  fields = {'name': 'sgd', 'base_lr': 16 * RATE, 'momentum': 0.0, 'schedule': 'constant'}
  groups = {'critic': {'base_lr': 160 * RATE}}
  made = recipe.make_recipe(fields | {'groups': groups}, Length(ROWS, 3, 9))
  method = two_players()
  tx = optim.make(lambda params: made.label(method.groups(params), params), made.transformations)
  found, _ = trained(method, tx, steps=1)
  start = init_state(method, tx, batch_of(), 0)
  plain, _ = trained(method, optax.sgd(RATE), steps=1)
  moved, expected = (
    np.asarray(after.params['critic']['kernel'] - start.params['critic']['kernel'])
    for after in (found, plain)
  )
  np.testing.assert_allclose(moved, 10 * expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(
  ('roles', 'said'),
  [
    ((('critic',), ('critic', 'encoder')), "'critic' is trained by several phases"),
    ((('critc',),), "trains 'critc', but there are only encoder, critic, unused"),
  ],
)
def test_roles_that_do_not_fit(roles, said):
  method = two_players()
  phases = tuple(Phase(method.loss, each) for each in roles)
  with pytest.raises(ValueError, match=said):
    jax.eval_shape(
      lambda: init_state(method._replace(phases=phases), optax.sgd(RATE), batch_of(), 0)
    )


@pytest.mark.parametrize(
  ('wrong', 'said'),
  [
    (lambda aux: aux.metrics, r'the loss must return \(value, Aux\), not \(value, dict\)'),
    (
      lambda aux: aux._replace(metrics={'all': jnp.ones(3)}),
      r"the metric 'all' has the shape \[3\]",
    ),
  ],
)
def test_what_a_loss_may_not_return(wrong, said):
  method = rotation(None)

  def loss(*arguments):
    value, aux = method.loss(*arguments)
    return value, wrong(aux)

  with pytest.raises(ValueError, match=said):
    jax.eval_shape(lambda: trained(method._replace(loss=loss), optax.sgd(RATE), steps=1))


def test_phases_beside_a_comparison_are_refused():
  method = two_players()._replace(compare=lambda *_: (0.0, {}))
  with pytest.raises(ValueError, match='with phases cannot have `compare`'):
    jax.eval_shape(lambda: init_state(method, optax.sgd(RATE), batch_of(), 0))
