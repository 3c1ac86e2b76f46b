"""Several methods at once on one encoder (Doersch and Zisserman 2017, arXiv 1708.07860).

The loss is the weighted sum of the parts' losses. The parts are whole methods, pretext tasks and
joint-embedding methods alike: each has its own heads, its own views among those of the run, its own
`transform` and its own random numbers, which are a function of its name: parts that are added or
removed change nothing of the others'. Only the encoder is shared, its parameters and its running
statistics, which every part's forward passes move in turn, by the parts' names.

The paper harmonizes the tasks' inputs by giving gray images to all of them; here that is
`encoder.input='gray'`, a stage of the network itself, which evaluations then have, too.

Different from the paper: the parts' gradients are added in one step, where theirs come from workers
of their own; heads read the encoder's embedding, and there is no lasso over its blocks; the tasks
are any, theirs are four, of which colorization and motion segmentation are not here.

What cannot be a part: a method with alternating phases or with work between steps such as
clustering, since both ask for the whole of a step or of the data; one without a network; one that
reads labels, which no part is given.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple
import zlib

import jax
import jax.numpy as jnp

from byoljax import streams
from byoljax.method import (
  COTANGENTS,
  Aux,
  Batch,
  MakeEncoder,
  Method,
  Setting,
  Target,
  evaluation_outputs,
)
from byoljax.models.net import Net, Statistics, stack
from byoljax.ops import trees

PyTree = Any
ENCODER = 'encoder'
BuildPart = Callable[[MakeEncoder, Setting, Mapping[str, Any]], Method]


class PartsState(Statistics):
  """The method state of several methods on one encoder.

  Attributes:
    parts: the state of each by its name, its running statistics apart.
  """

  parts: dict[str, Any]


class Part(NamedTuple):
  """One of the methods.

  Attributes:
    name: decides its random numbers; its roles and metrics are named after it.
    method: what it is.
    weight: of its loss, above 0.
    views: which views of the run it sees, numbers from 1; () for all.
  """

  name: str
  method: Method
  weight: float = 1.0
  views: tuple[int, ...] = ()

  def key(self, key: jax.Array) -> jax.Array:
    """Its own of a key that the composite gets."""
    return jax.random.fold_in(jax.random.fold_in(key, streams.PART), zlib.crc32(self.name.encode()))

  def role(self, own: str) -> str:
    """What one of its roles is called in the composite."""
    return own if own == ENCODER else f'{self.name}_{own}'

  def take(self, roles: Mapping[str, Any]) -> dict[str, Any]:
    """Its own roles, by their own names, out of those of the composite."""
    return {own: roles[self.role(own)] for own, _, _ in self.method.net.parts}

  def give(self, roles: Mapping[str, Any]) -> dict[str, Any]:
    """Its own roles by their names in the composite."""
    return {self.role(own): value for own, value in roles.items()}

  @property
  def path(self) -> tuple[str, str]:
    """Where its own state is in that of the composite."""
    return 'parts', self.name

  def target(self, own: Target) -> Target:
    """One of its targets, as it is found in the composite."""
    params, bn = (*self.path, *own.params), (*self.path, *own.bn)
    return Target(params, bn, self.role(own.prefix))

  def state(self, state: PartsState) -> PyTree:
    """Its own state out of that of the composite."""
    return state.parts[self.name].replace(bn=self.take(state.bn))

  def batch(self, batch: Batch) -> Batch:
    """What it sees of a batch: its views and what goes with them; no labels.

    Raises:
      ValueError: when traced: there is no such view.
    """
    numbers = self.views or range(1, len(batch['views']) + 1)
    if not all(1 <= number <= len(batch['views']) for number in numbers):
      raise ValueError(
        f"part '{self.name}' has views={self.views}, but the run has views 1 to "
        f'{len(batch["views"])}.'
      )
    return {
      name: tuple(value[number - 1] for number in numbers) if isinstance(value, tuple) else value
      for name, value in batch.items()
      if name != 'label'
    }


def multi_task(parts: Sequence[Part]) -> Method:
  """The weighted sum of methods on one encoder; `build` makes them.

  Args:
    parts: in the order in which their forward passes move the running statistics.
  """
  net = _network(parts)
  comparing = {part.name: part for part in parts if part.method.compare is not None}

  def transform(batch: Batch, key: jax.Array, step: jax.Array) -> Batch:
    seen = {
      part.name: part.method.transform(part.batch(batch), part.key(key), step) for part in parts
    }
    views = tuple(view for own in seen.values() for view in own['views'])
    return batch | {'views': views, 'parts': seen}

  def init(key: jax.Array, batch: Batch) -> tuple[PyTree, PartsState]:
    params, bn, states = {}, {}, {}
    for part in parts:
      own, state = part.method.init(part.key(key), batch['parts'][part.name])
      if ENCODER in params:
        _check_encoder(part, own[ENCODER], parts[0], params[ENCODER])
      # The encoder is that of the first part.
      params, bn = part.give(own) | params, part.give(state.bn) | bn
      states[part.name] = _following(part, own, params, state).replace(bn={})
    return params, PartsState(bn, states)

  def loss(
    params: PyTree, state: PartsState, batch: Batch, key: jax.Array, step: jax.Array
  ) -> tuple[jax.Array, Aux]:
    total, metrics, auxes = jnp.zeros(()), {}, {}
    for part in parts:
      seen, weight = batch['parts'][part.name], part.weight
      if COTANGENTS in batch and part.name in comparing:
        given = batch[COTANGENTS]
        # They are of the weighted sum.
        seen, weight = seen | {COTANGENTS: given and given[part.name]}, 1.0
      arguments = (part.take(params), part.state(state), seen)
      value, aux = part.method.loss(*arguments, part.key(key), step)
      total += weight * value
      state = _moved(state, part, aux.method_state)
      own = {'loss': value} | aux.metrics
      metrics |= {f'{part.name}/{name}': metric for name, metric in own.items()}
      auxes[part.name] = aux
    rows = {name: aux.rows for name, aux in auxes.items()}
    compared = {name: auxes[name].compared for name in comparing}
    embedding = auxes[parts[0].name].embedding
    return total, Aux(state, metrics, embedding, rows, compared=compared)

  def compare(
    compared: Mapping[str, PyTree], state: PartsState, key: jax.Array, step: jax.Array
  ) -> tuple[jax.Array, dict[str, jax.Array]]:
    total, metrics = jnp.zeros(()), {}
    for name, part in comparing.items():
      method_compare = part.method.compare
      assert method_compare is not None
      value, own = method_compare(compared[name], part.state(state), part.key(key), step)
      total += part.weight * value
      metrics |= {f'{name}/{each}': metric for each, metric in ({'loss': value} | own).items()}
    return total, metrics

  def remember(state: PartsState, rows: PyTree, finite: jax.Array) -> PartsState:
    for part in parts:
      written = part.method.remember(part.state(state), rows[part.name], finite)
      state = _moved(state, part, written)
    return state

  def post_step(
    params: PyTree, state: PartsState, step: jax.Array
  ) -> tuple[PyTree, PartsState, dict[str, jax.Array]]:
    metrics = {}
    for part in parts:
      own, moved, measured = part.method.post_step(part.take(params), part.state(state), step)
      params, state = params | part.give(own), _moved(state, part, moved)
      metrics |= {f'{part.name}/{name}': metric for name, metric in measured.items()}
    return params, state, metrics

  def groups(params: PyTree) -> PyTree:
    each = [part.give(part.method.groups(part.take(params))) for part in parts]
    merged = {role: names for own in each for role, names in own.items()}
    return merged | {ENCODER: jax.tree.map(_group, *(own[ENCODER] for own in each))}

  embed = evaluation_outputs(net, net.parts[0][1])
  starts = {
    '/'.join((part.role(path.split('/')[0]), *path.split('/')[1:])): step
    for part in parts
    for path, step in part.method.starts.items()
  }
  return Method(
    init,
    loss,
    post_step,
    embed,
    groups,
    remember=remember,
    net=net,
    transform=transform,
    starts=starts,
    memories=tuple((*part.path, *memory) for part in parts for memory in part.method.memories),
    targets=tuple(part.target(target) for part in parts for target in part.method.targets),
    notes=tuple(f"part '{part.name}': {note}" for part in parts for note in part.method.notes),
    compare=compare if comparing else None,
  )


def _following(part: Part, own: PyTree, params: PyTree, state: PyTree) -> PyTree:
  """A part's state, with targets that are copies of its encoder made copies of the shared one."""
  for target in part.method.targets:
    path = (*target.params, ENCODER)
    before = trees.at(state, path)
    if before is not None:
      copied = jax.tree.map(
        lambda t, o, shared: jnp.where(jnp.array_equal(t, o), shared, t),
        before, own[ENCODER], params[ENCODER],
      )  # fmt: skip
      state = trees.replaced(state, path, copied)
  return state


def _moved(state: PartsState, part: Part, own: PyTree) -> PartsState:
  """The composite's state with a part's new one in it."""
  parts = state.parts | {part.name: own.replace(bn={})}
  return state.replace(bn=state.bn | part.give(own.bn), parts=parts)


def _group(*names: str) -> str:
  """The optimizer group of a parameter of the encoder: what any part asks for."""
  return next((name for name in names if name != 'default'), 'default')


def _network(parts: Sequence[Part]) -> Net:
  """The encoder of the first part with the heads of all, each fed as in its own network."""
  made, reads = [parts[0].method.net.parts[0]], {}
  for part in parts:
    net = part.method.net
    outputs = [output for _, output, _ in net.parts]
    sources, before = dict(net.reads), outputs[0]
    for role, output, module in net.parts[1:]:
      made.append((part.role(role), f'{part.name}_{output}', module))
      reads[part.role(role)] = _source(part, sources.get(role, before), outputs, made[0][1])
      before = output
  return stack(made, reads=reads)


def _source(part: Part, source: str, outputs: Sequence[str], embedding: str) -> str:
  """What a part's head reads, by its name in the composite."""
  if source == outputs[0]:
    return embedding
  if source in outputs:
    return f'{part.name}_{source}'
  role, slash, tap = source.partition('/')
  return f'{part.role(role)}/{tap}' if slash else source


def _check_encoder(part: Part, own: PyTree, first: Part, shared: PyTree) -> None:
  shapes = [jax.tree.map(jnp.shape, tree) for tree in (own, shared)]
  if shapes[0] != shapes[1]:
    raise ValueError(
      f"the encoders of the parts '{part.name}' and '{first.name}' have parameters of different "
      'shapes, so that they cannot be one: give them views of one size.'
    )


def build(
  build_part: BuildPart,
  make_encoder: MakeEncoder,
  setting: Setting,
  *,
  parts: Mapping[str, Mapping[str, Any]],
) -> Method:
  """Builds several methods on one encoder.

  Args:
    build_part: (make_encoder, setting, fields) -> a method; the table of methods gives it, since no
      method knows another.
    make_encoder: as for the parts' own builders.
    setting: the run.
    parts: by the name of each: the fields of its method, 'name' among them, 'weight' of its loss
      and 'views', numbers from 1 of those that it sees, () for all. With a weight of 0 a part is
      left out, as if it were not there.

  Raises:
    ValueError: no part, a weight below 0, or a part that cannot be built or combined.
  """
  made = []
  for name in sorted(parts):
    fields = dict(parts[name])
    weight, views = fields.pop('weight', 1.0), tuple(fields.pop('views', ()))
    if not name.isidentifier() or weight < 0:
      raise ValueError(
        f"part '{name}' of weight {weight}: a name is an identifier, a weight at least 0."
      )
    if weight == 0:
      continue
    try:
      # Without classes, as for a set without labels: no part may learn from any.
      method = build_part(make_encoder, setting._replace(num_classes=0), fields)
      _check(method)
    except ValueError as error:
      raise ValueError(f"part '{name}': {error}") from error
    made.append(Part(name, method, weight, views))
  if not made:
    raise ValueError('parts: there is none with a weight above 0; give at least one method.')
  return multi_task(made)


def _check(method: Method) -> None:
  """Raises ValueError for a method that cannot be one of several."""
  if method.phases:
    raise ValueError('it alternates updates within a step, which cannot be added to others.')
  if method.refresh is not None:
    raise ValueError('it works on the whole data set between steps, which a part cannot.')
  if method.net is None:
    raise ValueError('it trains no network that could be shared.')
