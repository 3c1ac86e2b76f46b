"""The one train step: per device, pure, and ignorant of the method that it trains.

Pretraining, a linear probe and fine-tuning all go through `train_step`. Randomness is a function
of (seed, step, example), so the step number in the state is the only cursor and a resumed run is
bit-equal to an uninterrupted one.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import optax

from byoljax import streams
from byoljax.devices import collectives, mapping
from byoljax.method import Aux, Batch, Method

PyTree = Any
Metrics = dict[str, jax.Array]
Augment = Callable[[Batch, jax.Array], Batch]
Diagnose = Callable[[jax.Array, jax.Array], Metrics]


class TrainState(flax.struct.PyTreeNode):
  """Everything that training changes; arrays only.

  Attributes:
    step: int32 scalar, the number of optimizer steps done.
    params: what the optimizer trains, a dict of roles.
    opt_state: the optimizer's state.
    method_state: what the method changes without a gradient (targets, statistics, queues).
    key: uint32 [2], the run's random key data; it never changes.
  """

  step: jax.Array
  params: PyTree
  opt_state: PyTree
  method_state: PyTree
  key: jax.Array


class Skipping(NamedTuple):
  """The optimizer's state where updates that are not finite are left out.

  Attributes:
    inner: the optimizer's own state.
    total: int32 scalar, how many updates were left out.
    in_a_row: int32 scalar, how many of them since the last one that was not.
    longest: int32 scalar, the most that there ever were in a row.
  """

  inner: PyTree
  total: jax.Array
  in_a_row: jax.Array
  longest: jax.Array


def init_state(
  method: Method,
  tx: optax.GradientTransformation,
  batch: Batch,
  seed: int,
  *,
  skip_non_finite: bool = False,
) -> TrainState:
  """Builds the state at step 0 from an augmented example batch (only its shapes matter)."""
  key = jax.random.key(seed)

  def create() -> TrainState:
    params, method_state = method.init(jax.random.fold_in(key, streams.INIT), batch)
    opt_state = tx.init(params)
    if skip_non_finite:
      opt_state = Skipping(opt_state, *(jnp.zeros((), jnp.int32) for _ in range(3)))
    return TrainState(
      step=jnp.zeros((), jnp.int32),
      params=params,
      opt_state=opt_state,
      method_state=method_state,
      key=jax.random.key_data(jax.random.fold_in(key, streams.STEPS)),
    )

  return jax.jit(create)()


def train_step(
  state: TrainState,
  batch: Batch,
  *,
  method: Method,
  tx: optax.GradientTransformation,
  augment: Augment,
  diagnose: Diagnose | None = None,
  accumulate: int = 1,
  skip_non_finite: bool = False,
  sharded: TrainState | None = None,
  axis: str | None = collectives.AXIS,
) -> tuple[TrainState, Metrics]:
  """One optimizer step on this device's part of the batch.

  Args:
    state: the same on all devices.
    batch: this device's b examples, before augmentation.
    method: see `byoljax.method`.
    tx: the optimizer of all parameter groups.
    augment: (batch, step) -> batch with float32 'views'.
    diagnose: (embedding [b, D], step) -> metrics that are already global: collapse metrics.
    accumulate: splits the batch into this many micro-batches whose gradients are averaged, to save
      memory. Batch statistics are per micro-batch; the optimizer, the target's moving average and
      every schedule still move once per step.
    skip_non_finite: whether a step whose loss or gradient is not finite changes nothing but the
      step's number: no parameter, optimizer state, moving average, statistic or memory. The state
      must be made with it, too. Adds the metrics 'skipped', such steps so far, and
      'skipped_in_a_row', the most of them one after the other so far.
    sharded: shapes of the whole state, where this device holds only its parts of the optimizer's
      state and of the target network; the optimizer must take its norms over all
      devices, then. None: both are whole. The method sees to its memories itself.
    axis: the mapped axis, or None on a single device.

  Returns:
    The next state and the step's metrics, both equal on all devices.
  """
  step_key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
  key = jax.random.fold_in(step_key, streams.LOSS)

  def gradients(method_state: PyTree, part: Batch, part_key: jax.Array) -> tuple[PyTree, Aux]:
    def objective(params: PyTree) -> tuple[jax.Array, Aux]:
      value, aux = method.loss(
        params, method_state, augment(part, state.step), part_key, state.step
      )
      # Averaged here and again below: this is right under every way of mapping the step.
      return collectives.pmean(value, axis), aux

    (_, aux), grads = jax.value_and_grad(objective, has_aux=True)(state.params)
    return grads, aux

  opened = state.method_state
  if sharded is not None:
    opened = _with_target(opened, _joined(_target(opened), _target(sharded.method_state), axis))
  if accumulate == 1:
    grads, aux = gradients(opened, batch, key)
  else:
    grads, aux = _accumulated(gradients, opened, batch, key, accumulate)
  if sharded is not None:
    metrics = collectives.pmean(aux.metrics, axis)
    grads = jax.tree.map(lambda x: collectives.mean_cut(x, axis), grads)
  else:
    grads, metrics = collectives.pmean((grads, aux.metrics), axis)
  norms = _gradient_norms(grads, method.groups(state.params), axis if sharded is not None else None)
  # Depends on the whole backward pass, so that what it read is written in place afterwards.
  finite = jnp.isfinite(norms['grad_norm'])

  def updated(opt_state: PyTree) -> tuple[PyTree, PyTree, PyTree]:
    method_state = _remembered(method, aux, finite, accumulate)
    params = state.params
    if sharded is not None:
      method_state = _with_target(method_state, _target(state.method_state))
      params = jax.tree.map(lambda x: collectives.cut(x, axis), params)
    updates, opt_state = tx.update(grads, opt_state, params)
    params = optax.apply_updates(params, updates)
    if sharded is not None:
      params = _joined(params, state.params, axis)
    params, method_state = method.post_step(params, method_state, state.step)
    return params, opt_state, method_state

  if skip_non_finite:
    numbers = [*norms.values(), metrics['loss']]
    params, opt_state, method_state = _unless_spoilt(state, updated, numbers, axis)
    metrics |= {'skipped': opt_state.total, 'skipped_in_a_row': opt_state.longest}
  else:
    params, opt_state, method_state = updated(state.opt_state)
  metrics |= norms
  if diagnose is not None:
    metrics |= diagnose(aux.embedding, state.step)
  next_state = state.replace(
    step=state.step + 1, params=params, opt_state=opt_state, method_state=method_state
  )
  return next_state, metrics


def _target(method_state: PyTree) -> PyTree:
  """The parameters of the target network, if the method has one."""
  return getattr(method_state, 'target_params', {})


def _with_target(method_state: PyTree, target: PyTree) -> PyTree:
  has_one = hasattr(method_state, 'target_params')
  return method_state.replace(target_params=target) if has_one else method_state


def _joined(parts: PyTree, likes: PyTree, axis: str | None) -> PyTree:
  return jax.tree.map(lambda x, like: collectives.join(x, like.shape, axis), parts, likes)


def _unless_spoilt(
  state: TrainState,
  updated: Callable[[PyTree], tuple[PyTree, PyTree, PyTree]],
  numbers: list[jax.Array],
  axis: str | None,
) -> tuple[PyTree, Skipping, PyTree]:
  """What `updated` makes of the state if all numbers are finite, else what it was, counted."""
  fine = jnp.all(jnp.isfinite(jnp.stack(numbers)))
  # There are collectives in the branches: all devices must take the same.
  fine = collectives.pmean(fine.astype(jnp.float32), axis) == 1
  before: Skipping = state.opt_state
  params, inner, method_state = jax.lax.cond(
    fine,
    lambda: updated(before.inner),
    lambda: (state.params, before.inner, state.method_state),
  )
  in_a_row = jnp.where(fine, 0, before.in_a_row + 1)
  total = before.total + jnp.where(fine, 0, 1)
  counted = Skipping(inner, total, in_a_row, jnp.maximum(before.longest, in_a_row))
  return params, counted, method_state


def _accumulated(
  gradients: Callable[[PyTree, Batch, jax.Array], tuple[PyTree, Aux]],
  method_state: PyTree,
  batch: Batch,
  key: jax.Array,
  parts: int,
) -> tuple[PyTree, Aux]:
  """Averages gradients and metrics over micro-batches, threading the method state through them.

  Micro-batch i holds the examples whose position is i modulo `parts`. Strided like this its global
  content, and with it every batch statistic, does not depend on the number of devices.
  """

  def split(x: jax.Array) -> jax.Array:
    return jnp.moveaxis(x.reshape(x.shape[0] // parts, parts, *x.shape[1:]), 1, 0)

  def one(carry: PyTree, position: jax.Array) -> tuple[PyTree, Any]:
    state, total = carry
    place = position
    if mapping.must_unroll():
      # Never true, but without a loop nothing else makes a part wait for the one before: the
      # compiler would hold the activations of all of them. It removes barriers before that.
      place += (optax.tree.norm(total) > jnp.inf).astype(position.dtype)
    micro_batch = jax.tree.map(lambda x: x[place], micro)
    grads, aux = gradients(state, micro_batch, jax.random.fold_in(key, position))
    total = jax.tree.map(jnp.add, total, grads)
    return (aux.method_state, total), (aux.metrics, aux.embedding, aux.rows)

  micro = jax.tree.map(split, batch)
  shapes = jax.eval_shape(gradients, method_state, jax.tree.map(lambda x: x[0], micro), key)[0]
  nothing = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
  (method_state, total), (metrics, embedding, rows) = jax.lax.scan(
    one, (method_state, nothing), jnp.arange(parts), unroll=mapping.must_unroll()
  )
  grads = jax.tree.map(lambda x: x / parts, total)
  metrics = jax.tree.map(lambda x: x.mean(0), metrics)
  return grads, Aux(method_state, metrics, embedding.reshape(-1, embedding.shape[-1]), rows)


def _remembered(method: Method, aux: Aux, finite: jax.Array, parts: int) -> PyTree:
  """The method state after the rows of all micro-batches were written, in their order."""
  if parts == 1:
    return method.remember(aux.method_state, aux.rows, finite)

  def one(method_state: PyTree, rows: PyTree) -> tuple[PyTree, None]:
    return method.remember(method_state, rows, finite), None

  return jax.lax.scan(one, aux.method_state, aux.rows, length=parts)[0]


def _gradient_norms(grads: PyTree, groups: PyTree, axis: str | None) -> Metrics:
  """Global L2 norms: 'grad_norm' of the method's own parameters, 'probe/grad_norm' of the probe's.

  Kept apart because the probe's gradient depends on the labels, the method's must not. `axis` is
  that over which the gradients are cut, if they are.
  """
  pairs = list(zip(jax.tree.leaves(grads), jax.tree.leaves(groups), strict=True))
  own = [leaf for leaf, group in pairs if group != 'probe']
  probe = [leaf for leaf, group in pairs if group == 'probe']

  def norm(leaves: list[jax.Array]) -> jax.Array:
    if axis is None:
      return optax.tree.norm(leaves)
    squares = [(x.ndim, jnp.sum(jnp.square(x))) for x in leaves]
    parts = [square for dimensions, square in squares if dimensions]
    scalars = [square for dimensions, square in squares if not dimensions]
    return jnp.sqrt(collectives.psum(sum(parts, jnp.zeros(())), axis) + sum(scalars, jnp.zeros(())))

  norms = {'grad_norm': norm(own)}
  return norms | ({'probe/grad_norm': norm(probe)} if probe else {})
