"""`Net`: a network as two pure functions over plain dicts.

The only bridge to flax.linen's variable collections. Everything above works on `params` and
`batch_stats`, two dicts with the same role names on top ('encoder', 'projector', 'predictor', ...),
and never sees a linen collection. Running statistics are returned, not mutated.

    encoder, projector = make_encoder('resnet18'), MLPHead((512, 64))
    net = stack((('encoder', 'embedding', encoder), ('projector', 'projection', projector)))
    params, stats = net.init(key, images)
    outputs, stats = net.apply(params, stats, images, train=True)  # 'embedding' and 'projection'
    outputs, _ = net.apply(params, stats, images, train=False, upto='embedding')  # no projector run
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from byoljax.models import layers
from byoljax.suggest import did_you_mean

Params = dict[str, Any]
BatchStats = dict[str, Any]
Part = tuple[str, str, nn.Module]


class Net(NamedTuple):
  """A network as functions; see `stack`.

  Attributes:
    init: (key, x) -> (params, batch_stats), all float32. Only the shape of x [b,H,W,3] matters (a
      jax.ShapeDtypeStruct will do), and no mapped axis is needed.
    apply: (params, batch_stats, x, *, train, upto=None) -> (outputs, batch_stats). Outputs are
      float32 by name, [b,...]. With train=True, normalization uses the batch's statistics, over
      all devices of the modules' BN axis, which must then be mapped, and updated running ones are
      returned; with train=False it uses the running ones, without a collective, and they are
      returned as they came. `upto` names the last output wanted: later parts are not computed, and
      their parameters may be absent.
    parts: what it was stacked from.
  """

  init: Callable[[jax.Array, Any], tuple[Params, BatchStats]]
  apply: Callable[..., tuple[dict[str, jax.Array], BatchStats]]
  parts: tuple[Part, ...] = ()


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


def stack(parts: Sequence[Part], taps: Sequence[str] = ()) -> Net:
  """A Net that runs linen modules in sequence, each fed with the one before it.

  Args:
    parts: (role, output name, module) in order; a module is called as module(x, train=...). `role`
      is its key in params and batch_stats (present even when empty).
    taps: names of inner feature maps to put among the outputs as well: 'stage3' of a ResNet,
      float32 [b,h,w,C]; 'predictor/hidden1', with its role, where several parts have one of a name.

  Raises:
    ValueError: no parts; a role, or a name of an output, given twice; at `apply`, an unknown `upto`
      or tap.
  """
  parts, taps = tuple(parts), tuple(taps)
  roles, names = [p[0] for p in parts], [p[1] for p in parts]
  if not parts:
    raise ValueError('a stack needs at least one (role, output name, module)')
  for kind, given in (('role', roles), ('output name', [*names, *taps])):
    if len(set(given)) != len(given):
      raise ValueError(f'every {kind} of a stack must be given once, got {", ".join(given)}')

  def init(key: jax.Array, x: Any) -> tuple[Params, BatchStats]:
    shape = jax.ShapeDtypeStruct(x.shape, jnp.float32)
    params, batch_stats = {}, {}
    for i, (role, _, module) in enumerate(parts):
      variables = _draw(module, jax.random.fold_in(key, i), shape)
      params[role] = variables.get('params', {})
      batch_stats[role] = variables.get('batch_stats', {})
      if i + 1 < len(parts):
        shape = jax.eval_shape(lambda v, s, m=module: m.apply(v, s, train=False), variables, shape)
    return params, batch_stats

  def apply(
    params: Mapping[str, Any],
    batch_stats: Mapping[str, Any],
    x: jax.Array,
    *,
    train: bool,
    upto: str | None = None,
  ) -> tuple[dict[str, jax.Array], BatchStats]:
    if upto is not None and upto not in names:
      raise ValueError(_unknown('output', upto, names))
    outputs, inner, new_stats = {}, {}, dict(batch_stats)
    for role, name, module in parts:
      x, new_stats[role], found = _run(
        module, params[role], batch_stats[role], x, train, bool(taps)
      )
      outputs[name] = x.astype(jnp.float32)
      inner |= {f'{role}/{tap}': value for tap, value in found.items()}
      if name == upto:
        break
    for tap in taps:
      outputs[tap] = inner[_full_name(tap, list(inner))].astype(jnp.float32)
    return outputs, new_stats

  return Net(init, apply, parts)


def taps_of(net: Net, x: Any) -> dict[str, tuple[int, ...]]:
  """Everything that can be read out of a network, in the order in which it is computed.

  Inner feature maps of the first part go by their own name ('stage1'), those of later parts by
  their role, too ('projector/hidden1'); outputs by theirs. Nothing is computed.

  Args:
    net: a stack.
    x: an input, of which the shape matters.

  Returns:
    {name: shape}, with the batch first.
  """
  found: dict[str, tuple[int, ...]] = {}

  def run(key: jax.Array, x: jax.Array) -> None:
    params, stats = net.init(key, x)
    for number, (role, name, module) in enumerate(net.parts):
      x, _, inner = _run(module, params[role], stats[role], x, False, True)
      prefix = f'{role}/' if number else ''
      found.update({prefix + tap: value.shape for tap, value in inner.items()})
      found[name] = x.shape

  jax.eval_shape(run, jax.random.key(0), jax.ShapeDtypeStruct(x.shape, jnp.float32))
  return found


def cut(net: Net, taps: Sequence[str]) -> Net:
  """The network as far as these taps need it, with the inner ones among its outputs.

  Args:
    net: a stack.
    taps: names of `taps_of`.
  """
  names = [name for _, name, _ in net.parts]
  roles = [role for role, _, _ in net.parts]
  inner = tuple(tap for tap in taps if tap not in names)
  # An inner map's role stands in front of its name; without one it is the first part's.
  need = [names.index(tap) if tap in names else _part(tap, roles) for tap in taps]
  return stack(net.parts[: max(need) + 1], inner)


def _part(tap: str, roles: list[str]) -> int:
  role = tap.partition('/')[0]
  return roles.index(role) if role in roles else 0


def pooled(x: jax.Array, pool: str = 'cls') -> jax.Array:
  """One vector an image, float32 [b,D], from any tap.

  Args:
    x: [b,D], which stays as it is; a feature map [b,h,w,C], averaged over h and w; or the tokens of
      a vision transformer [b,1 + patches,D].
    pool: of tokens: 'cls', the class token, or 'mean', the patches' mean, as the encoder itself
      does it.
  """
  x = x.astype(jnp.float32)
  if x.ndim == 4:
    return x.mean((1, 2))
  if x.ndim == 3:
    return x[:, 0] if pool == 'cls' else x[:, 1:].mean(1)
  return x


def _draw(module: nn.Module, key: jax.Array, shape: jax.ShapeDtypeStruct) -> dict[str, Any]:
  """Linen variables for an input of that shape; under jit the forward pass is never computed."""

  @jax.jit
  def draw(key: jax.Array) -> dict[str, Any]:
    variables = module.init(key, jnp.zeros(shape.shape, shape.dtype), train=False)
    return layers.draw_together(dict(variables), key)

  return draw(key)


def _run(
  module: nn.Module, params: Any, stats: Any, x: jax.Array, train: bool, with_taps: bool
) -> tuple[jax.Array, Any, dict[str, jax.Array]]:
  """One module's output, its new running statistics and its inner feature maps."""
  mutable = (['batch_stats'] if train else []) + (['intermediates'] if with_taps else [])
  y, updates = module.apply(
    {'params': params, 'batch_stats': stats}, x, train=train, mutable=mutable
  )
  # Linen keeps every value sown under a name in a tuple; these are sown once per call.
  sown = updates.get('intermediates') or {}
  found = {name: values[0] for name, values in sown.items() if isinstance(values, tuple)}
  return y, updates.get('batch_stats', stats), found


def _full_name(tap: str, inner: list[str]) -> str:
  """A tap's name with its role; without one it is the first part's, or the only part's, by it."""
  if tap in inner:
    return tap
  alike = [name for name in inner if name.partition('/')[2] == tap]
  if not alike:
    raise ValueError(_unknown('tap', tap, [name.partition('/')[2] for name in inner]))
  return alike[0]


def _unknown(kind: str, name: str, valid: list[str]) -> str:
  hint = did_you_mean(name, valid)
  return f'unknown {kind} {name!r}: this stack has {", ".join(valid) or "none"}{hint}'
