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
from difflib import get_close_matches
from typing import Any, NamedTuple

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

from byoljax.models import layers

Params = dict[str, Any]
BatchStats = dict[str, Any]
Part = tuple[str, str, nn.Module]


class Net(NamedTuple):
  """A network as functions; see `stack`.

  Attributes:
    init: (key, x) -> (params, batch_stats), all float32. Only the shape of x [b,H,W,3] matters (a
      jax.ShapeDtypeStruct will do), and no mapped axis is needed.
    apply: (params, batch_stats, x, *, train, upto=None) -> (outputs, batch_stats). Outputs are
      float32 by name, [b,...]. With train=True, normalisation uses the batch's statistics, over
      all devices of the modules' BN axis, which must then be mapped, and updated running ones are
      returned; with train=False it uses the running ones, without a collective, and they are
      returned as they came. `upto` names the last output wanted: later parts are not computed, and
      their parameters may be absent.
  """

  init: Callable[[jax.Array, Any], tuple[Params, BatchStats]]
  apply: Callable[..., tuple[dict[str, jax.Array], BatchStats]]


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

  Normalisation sees one view at a time; running statistics move once per view, in order.
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
    taps: names of inner feature maps to put among the outputs as well, e.g. 'stage3' of a ResNet:
      float32 [b,h,w,C].

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
      inner |= found
      if name == upto:
        break
    for tap in taps:
      if tap not in inner:
        raise ValueError(_unknown('tap', tap, list(inner)))
      outputs[tap] = inner[tap].astype(jnp.float32)
    return outputs, new_stats

  return Net(init, apply)


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


def _unknown(kind: str, name: str, valid: list[str]) -> str:
  close = get_close_matches(name, valid, n=1)
  hint = f'; did you mean {close[0]!r}?' if close else ''
  return f'unknown {kind} {name!r}: this stack has {", ".join(valid) or "none"}{hint}'
