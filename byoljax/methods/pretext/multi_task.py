"""Several methods at once on one encoder (Doersch and Zisserman 2017, arXiv 1708.07860).

The loss is the weighted sum of the parts' losses. The parts are whole methods, pretext tasks and
joint-embedding methods alike: each has its own heads, its own views among those of the run, its own
`transform` and its own random numbers, which are a function of its name: parts that are added or
removed change nothing of the others'. Only the encoder is shared, its parameters and its running
statistics, which every part's forward passes move in turn, by the parts' names.

Heads read the encoder's embedding or, with a lasso, a sum of its maps that every part weights by
itself (`models.lasso`). The penalty is `lasso` times the sum of all weights, whatever the weight of
a part; after every step they are projected to unit length and to what is not negative, so that a
map can have a weight of exactly 0 and gain one again. Evaluations read the encoder as ever.

The paper harmonizes the tasks' inputs by giving lightness alone to all of them; here that is
`encoder.input='lightness'`, a stage of the network itself, which evaluations then have, too.

Different from the paper: the parts' gradients are added in one step, where theirs come from workers
of their own; the tasks are any, theirs are four; what `models.lasso` says.

What cannot be a part: a method with alternating phases or with work between steps such as
clustering, since both ask for the whole of a step or of the data; one without a network; one that
reads labels, which no part is given. With a lasso: one with a target network, whose weights of the
maps would be of another kind than the shared encoder's.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from byoljax.method import COTANGENTS, Aux, Batch, MakeEncoder, Method, Setting, evaluation_outputs
from byoljax.methods.pretext.parts import ENCODER, BuildPart, Part, PartsState, after, network
from byoljax.models import lasso as lasso_lib
from byoljax.ops import trees

PyTree = Any
IMAGE = 'image'  # What `Method.pictures` calls the image itself, the same for all parts.


def multi_task(parts: Sequence[Part], lasso: float = 0.0) -> Method:
  """The weighted sum of methods on one encoder; `build` makes them.

  Args:
    parts: in the order in which their forward passes move the running statistics.
    lasso: times the sum of the parts' weights of maps, where they have such.
  """
  net = network(parts)
  choosing = [part for part in parts if part.maps]
  comparing = {part.name: part for part in parts if part.method.compare is not None}

  def transform(batch: Batch, key: jax.Array, step: jax.Array) -> Batch:
    seen = {}
    for part in parts:
      given = part.batch(batch)
      with part.blamed():
        seen[part.name] = part.method.transform(given, part.key(key), step)
    views = tuple(view for own in seen.values() for view in own['views'])
    return batch | {'views': views, 'parts': seen}

  def init(key: jax.Array, batch: Batch) -> tuple[PyTree, PartsState]:
    params, bn, states = {}, {}, {}
    for part in parts:
      with part.blamed():
        own, state = part.method.init(part.key(key), batch['parts'][part.name])
      own = part.give(own)
      if ENCODER in params:
        _check_encoder(part, own[ENCODER], parts[0], params[ENCODER])
      # The encoder is that of the first part.
      params, bn = own | params, part.give(state.bn) | bn
      _check_target(part, state)
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
      state = after(state, part, aux.method_state)
      own = {'loss': value} | aux.metrics
      metrics |= {f'{part.name}/{name}': metric for name, metric in own.items()}
      auxes[part.name] = aux
    if choosing:
      penalty = sum(
        (jnp.sum(lasso_lib.unit(part.weights(params))) for part in choosing), jnp.zeros(())
      )
      total += lasso * penalty
      metrics['lasso'] = jax.lax.stop_gradient(lasso * penalty)
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
      state = after(state, part, written)
    return state

  def post_step(
    params: PyTree, state: PartsState, step: jax.Array
  ) -> tuple[PyTree, PartsState, dict[str, jax.Array]]:
    metrics = {}
    for part in parts:
      own, moved, measured = part.method.post_step(part.take(params), part.state(state), step)
      params, state = params | part.give(own), after(state, part, moved)
      metrics |= {f'{part.name}/{name}': metric for name, metric in measured.items()}
    for part in choosing:
      weights = lasso_lib.projected(part.weights(params))
      params = params | part.weighted(params, weights)
      named = zip(part.maps, weights, strict=True)
      metrics |= {f'{part.name}/weight_{tap}': weight for tap, weight in named}
    return params, state, metrics

  def groups(params: PyTree) -> PyTree:
    each = [part.give(part.method.groups(part.take(params))) for part in parts]
    merged = {role: names for own in each for role, names in own.items()}
    return merged | {ENCODER: jax.tree.map(_group, *(own[ENCODER] for own in each))}

  painting = [(part, part.method.pictures) for part in parts if part.method.pictures is not None]

  def pictures(
    params: PyTree, state: PartsState, batch: Batch, key: jax.Array
  ) -> dict[str, jax.Array]:
    shown = {}
    # The one view stands for those of every part; labels are for none.
    seen = {name: value for name, value in batch.items() if name != 'label'}
    for part, paint in painting:
      own = paint(part.take(params), part.state(state), seen, part.key(key))
      named = {name if name == IMAGE else f'{part.name} {name}': each for name, each in own.items()}
      shown |= named
    return shown

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
    pictures=pictures if painting else None,
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


def _group(*names: str) -> str:
  """The optimizer group of a parameter of the encoder: what any part asks for."""
  return next((name for name in names if name != 'default'), 'default')


def _check_encoder(part: Part, own: PyTree, first: Part, shared: PyTree) -> None:
  shapes = [jax.tree.map(jnp.shape, tree) for tree in (own, shared)]
  if shapes[0] != shapes[1]:
    raise ValueError(
      f"the encoders of the parts '{part.name}' and '{first.name}' have parameters of different "
      'shapes, so that they cannot be one: give them views of one size.'
    )


def _check_target(part: Part, state: PyTree) -> None:
  targets = [trees.at(state, (*target.params, ENCODER)) for target in part.method.targets]
  if part.maps and any(target is not None for target in targets):
    raise ValueError(
      f"part '{part.name}' has a target network, which cannot follow the weights of the lasso: "
      'set method.lasso=0, or leave the part out.'
    )


def build(
  build_part: BuildPart,
  make_encoder: MakeEncoder,
  setting: Setting,
  *,
  parts: Mapping[str, Mapping[str, Any]],
  lasso: float = 0.0,
  lasso_taps: Sequence[str] = (),
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
    lasso: times the sum of all weights with which parts read maps, which is at least 1 for each of
      them; 0: all read the embedding.
    lasso_taps: the encoder's maps that are read; () for all.

  Raises:
    ValueError: no part, a weight below 0, a part that cannot be built or combined, or an encoder
      that has no maps to choose from.
  """
  if lasso < 0:
    raise ValueError(f'lasso={lasso} must be at least 0, which turns it off.')
  if lasso_taps and not lasso:
    raise ValueError(
      f'lasso_taps={tuple(lasso_taps)} are the maps of a lasso, but lasso=0 turns it off: set '
      'method.lasso above 0, or leave lasso_taps empty.'
    )
  maps, make = (), make_encoder
  if lasso:
    maps = lasso_lib.choose_maps(make_encoder(None), len(setting.mean), lasso_taps)
    make = _with_lasso(make_encoder, setting, maps)
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
      seen = tuple(v for i, v in enumerate(setting.views, 1) if not views or i in views)
      # Without classes, as for a set without labels: no part may learn from any.
      method = build_part(make, setting._replace(num_classes=0, views=seen), fields)
      _check(method)
    except ValueError as error:
      raise ValueError(f"part '{name}': {error}") from error
    made.append(Part(name, method, weight, views, maps))
  if not made:
    raise ValueError('parts: there is none with a weight above 0; give at least one method.')
  return multi_task(made, lasso)


def _with_lasso(make_encoder: MakeEncoder, setting: Setting, maps: tuple[str, ...]) -> MakeEncoder:
  def make(bn_axis: str | None, bn_groups: int = 0) -> Any:
    encoder, dtype = make_encoder(bn_axis, bn_groups), jnp.dtype(setting.dtype)
    return lasso_lib.WithLasso(encoder, maps, bn_axis=bn_axis, dtype=dtype)

  return make


def _check(method: Method) -> None:
  """Raises ValueError for a method that cannot be one of several."""
  if method.phases:
    raise ValueError('it alternates updates within a step, which cannot be added to others.')
  if method.refresh is not None:
    raise ValueError('it works on the whole data set between steps, which a part cannot.')
  if method.net is None:
    raise ValueError('it trains no network that could be shared.')
