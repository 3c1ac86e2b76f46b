"""`Net`: a network as two pure functions over plain dicts.

The only bridge to flax.linen's variable collections. Everything above works on `params` and
`batch_stats`, two dicts with the same role names on top ('encoder', 'projector', 'predictor', ...),
and never sees a linen collection. Running statistics are returned, not mutated.

    encoder, projector = make_encoder('resnet18'), MLPHead((512, 64))
    net = stack((('encoder', 'embedding', encoder), ('projector', 'projection', projector)))
    params, stats = net.init(key, images)
    outputs, stats = net.apply(params, stats, images, train=True)  # 'embedding' and 'projection'
    outputs, _ = net.apply(params, stats, images, train=False, upto='embedding')  # no projector run

A part may read another output or inner map than that of the part before it, and take further named
inputs: a masked autoencoder's decoder reads tokens, and its encoder is told which patches to keep.

    net = stack(
      (('encoder', 'embedding', vit), ('decoder', 'pixels', decoder)), reads={'decoder': 'tokens'}
    )
    outputs, _ = net.apply(
      params, stats, images, train=True,
      inputs={'encoder': {'keep': keep}, 'decoder': {'restore': restore}},
    )
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
import functools
from typing import Any, NamedTuple

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from byoljax.models import initializers, own_modules
from byoljax.suggest import did_you_mean

Params = dict[str, Any]
BatchStats = dict[str, Any]
Part = tuple[str, str, nn.Module]
Source = str | tuple[str, ...]
"""What a part reads: an output or an inner map of earlier parts, or several of them as a tuple."""
Inputs = Mapping[str, Mapping[str, Any]]
"""Further named inputs of parts: {role: {name: array}}."""


class Net(NamedTuple):
  """A network as functions; see `stack`.

  Attributes:
    init: (key, x, inputs=None) -> (params, batch_stats), all float32. Only the shapes of x
      [b,H,W,C] and of `inputs` matter (a jax.ShapeDtypeStruct will do), and no mapped axis is
      needed.
    apply: (params, batch_stats, x, *, train, upto=None, inputs=None) -> (outputs, batch_stats).
      Outputs are float32 by name, [b,...]. With train=True, normalization uses the batch's
      statistics, over all devices of the modules' BN axis, which must then be mapped, and updated
      running ones are returned; with train=False it uses the running ones, without a collective,
      and they are returned as they came; a tuple of roles: of these the one, of the others the
      other. `upto` names the last output wanted: later parts are not
      computed, and their parameters may be absent. `inputs` are further named inputs of parts.
    parts: what it was stacked from.
    reads: (role, source) of the parts that do not read the output of the part before them.
    taps: names of inner feature maps among the outputs.
  """

  init: Callable[..., tuple[Params, BatchStats]]
  apply: Callable[..., tuple[dict[str, jax.Array], BatchStats]]
  parts: tuple[Part, ...] = ()
  reads: tuple[tuple[str, Source], ...] = ()
  taps: tuple[str, ...] = ()

  def __reduce__(self) -> tuple[Any, ...]:
    """Functions cannot be pickled; what they were made from can."""
    return stack, (self.parts, self.taps, self.reads)


class Statistics(flax.struct.PyTreeNode):
  """The method state of methods that keep nothing but running statistics.

  Attributes:
    bn: by role, as `Net.init` gives them.
  """

  bn: BatchStats


class WithTarget(Statistics):
  """The method state of methods with a second network that moves slowly behind the first.

  Attributes:
    target_params: parameters of its roles; an encoder is found there under the name 'target'.
    target_bn: its own running statistics.
  """

  target_params: Params
  target_bn: BatchStats


def apply_each(
  net: Net, params: Mapping[str, Any], batch_stats: Mapping[str, Any], views: Sequence[jax.Array]
) -> tuple[list[dict[str, jax.Array]], BatchStats]:
  """Train-mode outputs of every view in a forward pass of its own.

  Normalization sees one view at a time; running statistics move once per view, in order.
  """
  stats, outputs = dict(batch_stats), []
  for view in views:
    made, stats = net.apply(params, stats, view, train=True)
    outputs.append(made)
  return outputs, stats


def output_shapes(
  net: Net, params: Mapping[str, Any], batch_stats: Mapping[str, Any], x: Any
) -> dict[str, jax.ShapeDtypeStruct]:
  """Shapes of a network's outputs for an input like x, found without computing anything."""

  def evaluate(params: Any, batch_stats: Any, x: jax.Array) -> dict[str, jax.Array]:
    return net.apply(params, batch_stats, x, train=False)[0]

  return jax.eval_shape(evaluate, params, batch_stats, x)


def stack(
  parts: Sequence[Part],
  taps: Sequence[str] = (),
  reads: Mapping[str, Source] | Sequence[tuple[str, Source]] = (),
) -> Net:
  """A Net that runs linen modules in sequence, each fed with the one before it.

  Args:
    parts: (role, output name, module) in order; a module is called as module(x, train=...), with
      its further named inputs, if any, as keywords. `role` is its key in params and batch_stats
      (present even when empty).
    taps: names of inner feature maps to put among the outputs as well: 'stage3' of a ResNet,
      float32 [b,h,w,C]; 'predictor/hidden1', with its role, where several parts have one of a name.
    reads: role -> the output or tap of an earlier part that it is fed with instead, or several.

  Raises:
    ValueError: no parts; a role, or a name of an output, given twice; something to read for a role
      that is not there; at `apply`, an unknown `upto`, tap, source or role of an input.
  """
  parts, taps, sources = tuple(parts), tuple(taps), dict(reads)
  roles, names = [p[0] for p in parts], [p[1] for p in parts]
  if not parts:
    raise ValueError('a stack needs at least one (role, output name, module)')
  for kind, given in (('role', roles), ('output name', [*names, *taps])):
    if len(set(given)) != len(given):
      raise ValueError(f'every {kind} of a stack must be given once, got {", ".join(given)}')
  for role in sources:
    if role not in roles[1:]:
      raise ValueError(unknown_name('role that reads', role, roles[1:]))
  with_inner = bool(taps) or any(source not in names for source in sources.values())

  def init(key: jax.Array, x: Any, inputs: Inputs | None = None) -> tuple[Params, BatchStats]:
    named = _checked(inputs, roles)
    params: Params = {}
    batch_stats: BatchStats = {}
    made: dict[str, Any] = {}
    shape = jax.ShapeDtypeStruct(x.shape, jnp.float32)
    for i, (role, name, module) in enumerate(parts):
      if role in sources:
        shape = read_source(sources[role], made)
      more = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), named.get(role, {}))
      variables = _draw(module, jax.random.fold_in(key, i), shape, more)
      params[role] = variables.get('params', {})
      batch_stats[role] = variables.get('batch_stats', {})
      if i + 1 < len(parts):
        shape, inner = _shapes(module, params[role], batch_stats[role], shape, more, with_inner)
        if name == 'embedding':
          own_modules.check_embedding(module, shape)
        made |= {f'{role}/{tap}': value for tap, value in inner.items()} | {name: shape}
    return params, batch_stats

  def apply(
    params: Mapping[str, Any],
    batch_stats: Mapping[str, Any],
    x: jax.Array,
    *,
    train: bool | tuple[str, ...],
    upto: str | None = None,
    inputs: Inputs | None = None,
  ) -> tuple[dict[str, jax.Array], BatchStats]:
    if upto is not None and upto not in names:
      raise ValueError(unknown_name('output', upto, names))
    named = _checked(inputs, roles)
    outputs, made, new_stats = {}, {}, dict(batch_stats)
    for role, name, module in parts:
      if role in sources:
        x = read_source(sources[role], made)
      training = train if isinstance(train, bool) else role in train
      x, new_stats[role], found = run_part(
        module, params[role], batch_stats[role], x, training, with_inner, named.get(role, {})
      )
      outputs[name] = x.astype(jnp.float32)
      made |= {f'{role}/{tap}': value for tap, value in found.items()} | {name: x}
      if name == upto:
        break
    inner = [name for name in made if name not in outputs]
    for tap in taps:
      outputs[tap] = made[full_name(tap, inner)].astype(jnp.float32)
    return outputs, new_stats

  return Net(init, apply, parts, tuple(sources.items()), taps)


def _checked(inputs: Inputs | None, roles: Sequence[str]) -> Inputs:
  for role in inputs or {}:
    if role not in roles:
      raise ValueError(unknown_name('role of an input', role, list(roles)))
  return inputs or {}


def read_source(source: Source, made: Mapping[str, Any]) -> Any:
  """The output, or the inner map, of an earlier part; a tuple of several."""
  if isinstance(source, tuple):
    return tuple(read_source(each, made) for each in source)
  return made[source] if source in made else made[full_name(source, list(made))]


def _shapes(
  module: nn.Module, params: Any, stats: Any, shape: Any, more: Mapping[str, Any], with_taps: bool
) -> tuple[Any, dict[str, Any]]:
  """Shapes of a part's output and of its inner maps."""

  def run(params: Any, stats: Any, x: Any, more: Any) -> tuple[Any, dict[str, Any]]:
    y, _, found = run_part(module, params, stats, x, False, with_taps, more)
    return y, found

  return jax.eval_shape(run, params, stats, shape, more)


class _Key:
  """A module as a static argument: by value, or as the object it is where a field has no hash."""

  def __init__(self, module: nn.Module):
    self.module = module
    try:
      self._hash, self._by_value = hash(module), True
    except TypeError:
      self._hash, self._by_value = id(module), False

  def __eq__(self, other: object) -> bool:
    if not isinstance(other, _Key) or self._by_value != other._by_value:
      return False
    return self.module is other.module or (self._by_value and self.module == other.module)

  def __hash__(self) -> int:
    return self._hash


def modules_in_order(module: nn.Module, example: jax.Array) -> tuple[str, ...]:
  """Paths of a module's parts that have parameters, 'stem_conv', 'stage1_block0', as they are used.

  Of a module that is nothing but another one with something in front, the other one's. Nothing is
  computed.
  """
  found: list[str] = []

  def note(x: jax.Array) -> jax.Array:
    params, prefix = module.init(jax.random.key(0), x, train=False)['params'], ''
    while len(params) == 1 and isinstance(next(iter(params.values())), dict):
      ((name, inner),) = params.items()
      if not all(isinstance(value, dict) for value in inner.values()):
        break
      params, prefix = inner, f'{prefix}{name}/'
    found.extend(prefix + name for name in params)
    return x

  jax.eval_shape(note, example)
  return tuple(found)


def _draw(
  module: nn.Module, key: jax.Array, shape: jax.ShapeDtypeStruct, more: Mapping[str, Any]
) -> dict[str, Any]:
  """Linen variables for inputs of those shapes; under jit the forward pass is never computed."""
  shapes, structure = jax.tree.flatten((shape, dict(more)))
  return _draw_module(_Key(module), key, tuple(shapes), structure)


@functools.partial(jax.jit, static_argnums=(0, 2, 3))
def _draw_module(
  module: _Key, key: jax.Array, shapes: tuple[jax.ShapeDtypeStruct, ...], structure: Any
) -> dict[str, Any]:
  zeros = [jnp.zeros(shape.shape, shape.dtype) for shape in shapes]
  x, named = jax.tree.unflatten(structure, zeros)
  with initializers.shapes_alone():
    variables = own_modules.init(module.module, key, x, named)
  return initializers.draw_together(variables, key)


def run_part(
  module: nn.Module,
  params: Any,
  stats: Any,
  x: jax.Array,
  train: bool,
  with_taps: bool,
  more: Mapping[str, Any],
) -> tuple[jax.Array, Any, dict[str, jax.Array]]:
  """One module's output, its new running statistics and its inner feature maps.

  It is traced once for every shape of input: each further view, and a target network of equal
  modules, repeats what was found, and so do its derivatives.
  """
  y, stats, found = _run_module(_Key(module), params, stats, x, train, with_taps, dict(more))
  return y, stats, dict(found)


@functools.partial(jax.jit, static_argnums=(0, 4, 5))
def _run_module(
  module: _Key,
  params: Any,
  stats: Any,
  x: jax.Array,
  train: bool,
  with_taps: bool,
  more: dict[str, Any],
) -> tuple[jax.Array, Any, OrderedDict[str, jax.Array]]:
  # Inner maps are there in any case: modules around others may read them.
  mutable = (['batch_stats'] if train else []) + ['intermediates']
  with initializers.shapes_alone():
    y, updates = module.module.apply(
      {'params': params, 'batch_stats': stats}, x, train=train, mutable=mutable, **more
    )
  # Linen keeps every value sown under a name in a tuple; these are sown once per call.
  sown = updates.get('intermediates') or {}
  found = {name: values[0] for name, values in sown.items() if isinstance(values, tuple)}
  found = found if with_taps else {}
  found = OrderedDict(found)  # A plain dict would come out of a jitted function in sorted order.
  # No loss depends on running statistics: their derivatives would be traced for nothing.
  return y, jax.lax.stop_gradient(updates.get('batch_stats', stats)), found


def full_name(tap: str, inner: list[str]) -> str:
  """A tap's name with its role; without one it is the first part's, or the only part's, by it."""
  if tap in inner:
    return tap
  alike = [name for name in inner if name.partition('/')[2] == tap]
  if not alike:
    raise ValueError(unknown_name('tap', tap, [name.partition('/')[2] for name in inner]))
  return alike[0]


def unknown_name(kind: str, name: str, valid: list[str]) -> str:
  """What to say about a name that is not there."""
  hint = did_you_mean(name, valid)
  return f'unknown {kind} {name!r}: this stack has {", ".join(valid) or "none"}{hint}'
