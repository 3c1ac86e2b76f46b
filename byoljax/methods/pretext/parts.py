"""The parts of `multi_task`: what each sees, and what is its own in what all have together.

The composite's parameters and running statistics hold the shared encoder under its name and every
head under the part's and its own, 'turns_head'. With a lasso (`models.lasso`) a part's own encoder
is the shared one and weights of its maps, which are apart in the composite, as 'turns_lasso'.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
import contextlib
from typing import Any, NamedTuple
import zlib

import jax

from byoljax import streams
from byoljax.method import Batch, MakeEncoder, Method, Setting, Target
from byoljax.models import lasso
from byoljax.models.net import Net, Source, Statistics, stack

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
    maps: those that its encoder, a `lasso.WithLasso`, sums up; () without.
  """

  name: str
  method: Method
  weight: float = 1.0
  views: tuple[int, ...] = ()
  maps: tuple[str, ...] = ()

  def key(self, key: jax.Array) -> jax.Array:
    """Its own of a key that the composite gets."""
    return jax.random.fold_in(jax.random.fold_in(key, streams.PART), zlib.crc32(self.name.encode()))

  def role(self, own: str) -> str:
    """What one of its roles is called in the composite."""
    return own if own == ENCODER else f'{self.name}_{own}'

  @property
  def lasso(self) -> str:
    """The role of its weights of the maps."""
    return self.role(lasso.ROLE)

  @property
  def mixture(self) -> str:
    """The output that its heads read in the place of the embedding."""
    return f'{self.name}_{lasso.MIXTURE}'

  def take(self, roles: Mapping[str, Any]) -> dict[str, Any]:
    """Its own roles, by their own names, out of those of the composite."""
    own = {own: roles[self.role(own)] for own, _, _ in self.method.net.parts}
    if self.maps:
      own[ENCODER] = {**own[ENCODER], lasso.ROLE: roles[self.lasso]}
    return own

  def give(self, roles: Mapping[str, Any]) -> dict[str, Any]:
    """Its own roles by their names in the composite."""
    given = {self.role(own): value for own, value in roles.items()}
    if self.maps:
      encoder = dict(given[ENCODER])
      given |= {self.lasso: encoder.pop(lasso.ROLE), ENCODER: encoder}
    return given

  def weights(self, params: Mapping[str, Any]) -> jax.Array:
    """Its weights of the maps, out of the composite's parameters."""
    return params[self.lasso][lasso.WEIGHTS]

  def weighted(self, params: Mapping[str, Any], weights: jax.Array) -> dict[str, Any]:
    """Its role of the composite's parameters with other weights."""
    return {self.lasso: {**params[self.lasso], lasso.WEIGHTS: weights}}

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

  @contextlib.contextmanager
  def blamed(self) -> Iterator[None]:
    """Within, what its method asks of the batch is said of this part and of its views."""
    try:
      yield
    except ValueError as error:
      views = f'method.parts.{self.name}.views={self.views}'
      raise ValueError(f"part '{self.name}', whose views {views} chooses: {error}") from error

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


def after(state: PartsState, part: Part, own: PyTree) -> PartsState:
  """The composite's state with a part's new one in it."""
  parts = state.parts | {part.name: own.replace(bn={})}
  return state.replace(bn=state.bn | part.give(own.bn), parts=parts)


def network(parts: Sequence[Part]) -> Net:
  """The shared encoder with the heads of all, each fed as in its own network."""
  role, embedding, encoder = parts[0].method.net.parts[0]
  shared = encoder.encoder if parts[0].maps else encoder
  made, reads = [(role, embedding, shared)], {}
  for part in parts:
    net = part.method.net
    if part.maps:
      own = net.parts[0][2]
      mixed = lasso.WeightedMaps(own.bn_axis, own.dtype)
      made.append((part.lasso, part.mixture, mixed))
      reads[part.lasso] = tuple(f'{ENCODER}/{tap}' for tap in part.maps)
    outputs = [output for _, output, _ in net.parts]
    sources, before = dict(net.reads), outputs[0]
    for role, output, module in net.parts[1:]:
      made.append((part.role(role), f'{part.name}_{output}', module))
      reads[part.role(role)] = _source(part, sources.get(role, before), outputs, embedding)
      before = output
  return stack(made, reads=reads)


def _source(part: Part, source: Source, outputs: Sequence[str], embedding: str) -> Source:
  """What a part's head reads, by its name in the composite."""
  if isinstance(source, tuple):
    return tuple(_name(part, each, outputs, embedding) for each in source)
  return _name(part, source, outputs, embedding)


def _name(part: Part, source: str, outputs: Sequence[str], embedding: str) -> str:
  if source == outputs[0]:
    return part.mixture if part.maps else embedding
  if source == lasso.MIXTURE and part.maps:
    return f'{part.lasso}/{source}'
  if source in outputs:
    return f'{part.name}_{source}'
  role, slash, tap = source.partition('/')
  return f'{part.role(role)}/{tap}' if slash else source
