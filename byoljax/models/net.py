"""`Net`: a network as two pure functions over plain dicts. The only bridge to flax.linen's variable collections.

Everything above works on `params` and `batch_stats`, two dicts with the same role names on top ('encoder',
'projector', 'predictor', ...), and never sees a linen collection. Running statistics are returned, not mutated.

    net = stack((('encoder', 'embedding', make_encoder('resnet18')), ('projector', 'projection', MLPHead((512, 64)))))
    params, batch_stats = net.init(key, images)
    outputs, batch_stats = net.apply(params, batch_stats, images, train=True)   # {'embedding', 'projection'}
    features, _ = net.apply(params, batch_stats, images, train=False, upto='embedding')   # the heads are not computed
"""

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any, NamedTuple, Protocol

import flax.linen as nn
import jax
import jax.numpy as jnp

Params = dict[str, Any]
BatchStats = dict[str, Any]
Part = tuple[str, str, nn.Module]


class Init(Protocol):
  """(key, x) -> (params, batch_stats)."""

  def __call__(self, key: jax.Array, x: Any) -> tuple[Params, BatchStats]: ...


class Apply(Protocol):
  """(params, batch_stats, x, *, train, upto=None) -> (outputs, new batch_stats)."""

  def __call__(
    self,
    params: Mapping[str, Any],
    batch_stats: Mapping[str, Any],
    x: jax.Array,
    *,
    train: bool,
    upto: str | None = None,
  ) -> tuple[dict[str, jax.Array], BatchStats]: ...


class Net(NamedTuple):
  """A network: `init` draws float32 parameters, `apply` runs it.

  init(key, x): only the shape of x [b,H,W,3] is used (a jax.ShapeDtypeStruct will do). Needs no mapped axis.
  apply(params, batch_stats, x, *, train, upto=None): outputs are float32 [b,...] by name. `train=True` uses the
    batch's statistics (over the devices of the modules' BN axis, which must then be mapped) and returns updated
    running ones; `train=False` uses the running ones, has no collective and returns `batch_stats` as it came.
    `upto` names the last output wanted: later parts are not computed and their parameters may be absent.
  """

  init: Init
  apply: Apply


def stack(parts: Sequence[Part], taps: Sequence[str] = ()) -> Net:
  """A Net that runs linen modules in sequence, each fed with the one before it.

  Args:
    parts: (role, output name, module) in order; a module is called as module(x, train=...). `role` is its key in
      params and batch_stats (present even when empty).
    taps: names of inner feature maps to put among the outputs as well, e.g. 'stage3' of a ResNet: float32 [b,h,w,C].
  Raises:
    ValueError: no parts; a role, or a name of an output, given twice; at `apply`, an unknown `upto` or tap.
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
  """Linen variables for an input of that shape; jitted, so that the forward pass is traced but never computed."""
  draw = jax.jit(lambda k: module.init(k, jnp.zeros(shape.shape, shape.dtype), train=False))
  return dict(draw(key))


def _run(
  module: nn.Module, params: Any, stats: Any, x: jax.Array, train: bool, with_taps: bool
) -> tuple[jax.Array, Any, dict[str, jax.Array]]:
  """One module's output, its new running statistics and its inner feature maps."""
  mutable = (['batch_stats'] if train else []) + (['intermediates'] if with_taps else [])
  y, updates = module.apply(
    {'params': params, 'batch_stats': stats}, x, train=train, mutable=mutable
  )
  # Linen keeps every value sown under a name in a tuple; these are sown once per call.
  found = {k: v[0] for k, v in updates.get('intermediates', {}).items() if isinstance(v, tuple)}
  return y, updates.get('batch_stats', stats), found


def _unknown(kind: str, name: str, valid: list[str]) -> str:
  close = get_close_matches(name, valid, n=1)
  hint = f'; did you mean {close[0]!r}?' if close else ''
  return f'unknown {kind} {name!r}: this stack has {", ".join(valid) or "none"}{hint}'
