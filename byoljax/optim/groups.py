"""Which parameter is treated how: masks by path, groups, and the table that a run prints."""

from collections.abc import Callable, Collection, Mapping
import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from byoljax.optim.lars import CountState
from byoljax.suggest import did_you_mean

# The last name of a path: linen calls shifts 'bias' and the scales of its normalization layers
# 'scale'.
EXCLUDED_NAMES = ('bias', 'scale')


def path_name(path: tuple[Any, ...]) -> str:
  """'encoder/stem_conv/kernel' from a key path of jax.tree_util."""
  return jax.tree_util.keystr(path, simple=True, separator='/')


def is_bias_or_norm(path: tuple[Any, ...]) -> bool:
  """Whether a path ends at a bias or at the scale or bias of a normalization layer."""
  return path_name(path).rpartition('/')[2] in EXCLUDED_NAMES


def in_roles(path: tuple[Any, ...], roles: Collection[str]) -> bool:
  """Whether a path lies in one of these roles, the names on top."""
  return path_name(path).partition('/')[0] in roles


def decay_mask(exclude_bias_and_norm: bool, roles: Collection[str] = ()) -> Callable[[Any], Any]:
  """params -> tree of bool: False for biases and normalization, if excluded, and for `roles`."""

  def mask(params: Any) -> Any:
    return jax.tree_util.tree_map_with_path(
      lambda path, _: (
        not ((exclude_bias_and_norm and is_bias_or_norm(path)) or in_roles(path, roles))
      ),
      params,
    )

  return mask


def freeze() -> optax.GradientTransformation:
  """Updates that change no bit: negative zeros, since adding 0. would turn a -0. into 0."""

  def update(updates, state, params=None):
    del params
    return jax.tree.map(lambda u: jnp.full_like(u, -0.0), updates), state

  return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


class StartState(NamedTuple):
  """State of `start_at`.

  Attributes:
    count: number of updates that were asked for, int32 [].
    inner: the optimizer's own state, as at its first update until the start.
  """

  count: jax.typing.ArrayLike
  inner: Any


def start_at(step: int, tx: optax.GradientTransformation) -> optax.GradientTransformation:
  """`tx` from update number `step` on; before it, updates that change no bit.

  Moments, momentum and their counts begin at the start, as where PyTorch code clears the gradient
  and its optimizer passes a parameter over: fed with zeros instead, Adam would count the steps. The
  positions in schedules, which belong to the run, go on.
  """

  def init(params: Any) -> StartState:
    return StartState(jnp.zeros([], jnp.int32), tx.init(params))

  def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, StartState]:
    started = jnp.asarray(state.count) >= step

    def kept(new: Any, old: Any) -> Any:
      return new if isinstance(new, CountState) else jnp.where(started, new, old)

    moved, inner = tx.update(updates, state.inner, params)
    moved = jax.tree.map(lambda u: jnp.where(started, u, jnp.full_like(u, -0.0)), moved)
    inner = jax.tree.map(kept, inner, state.inner, is_leaf=lambda x: isinstance(x, CountState))
    return moved, StartState(optax.safe_increment(state.count), inner)

  return optax.GradientTransformation(init, update)


def make(
  groups: Any | Callable[[Any], Any], specs: Mapping[str, optax.GradientTransformation]
) -> optax.GradientTransformation:
  """One optimizer per group of parameters, as one transformation.

  Args:
    groups: tree of group names like the parameters, or a function that makes it from them
      (`Method.groups`).
    specs: group name -> transformation. 'frozen' need not be given: its parameters stay
      bit-identical.

  Raises:
    ValueError: a group without a transformation (with a function, at init).
  """
  specs = {'frozen': freeze(), **specs}

  def checked(tree: Any) -> Any:
    for name in sorted(set(jax.tree.leaves(tree))):
      if name not in specs:
        hint = did_you_mean(name, specs)
        raise ValueError(
          f'parameter group {name!r} has no optimizer: there is one for {", ".join(specs)}{hint}'
        )
    return tree

  labels = (lambda params: checked(groups(params))) if callable(groups) else checked(groups)
  return optax.multi_transform({**specs}, labels)


def param_report(params: Any, groups: Any, settings: Mapping[str, Mapping[str, Any]]) -> str:
  """A table of what happens to which parameters; numbers in paths are folded to '*'.

  Args:
    params: parameters, or their shapes (jax.eval_shape).
    groups: tree of group names like `params`.
    settings: group name -> the keyword arguments its `make_optimizer` call got (name, weight_decay,
      exclude_bias_and_norm, unadapted are read); a group that is absent is frozen.

  Returns:
    Lines of text: path pattern, tensors, parameters, shape (or '...' where it varies), group,
    decayed?, adapted?
  """
  rows: dict[tuple[str, str], list[Any]] = {}
  leaves = jax.tree_util.tree_leaves_with_path(params)
  for (path, leaf), group in zip(leaves, jax.tree.leaves(groups), strict=True):
    pattern = re.sub(r'\d+', '*', path_name(path))
    spec = settings.get(group, {})
    treated = bool(spec) and not (spec.get('exclude_bias_and_norm', True) and is_bias_or_norm(path))
    decayed = treated and spec.get('weight_decay', 0.0) > 0
    adapted = treated and spec['name'].startswith(('lars', 'larc'))
    adapted = adapted and not in_roles(path, spec.get('unadapted', ()))
    row = rows.setdefault((pattern, group), [0, 0, str(list(leaf.shape)), decayed, adapted])
    row[0] += 1
    row[1] += leaf.size
    row[2] = row[2] if row[2] == str(list(leaf.shape)) else '...'
  yes = {True: 'yes', False: '-'}
  table = [('parameters', 'tensors', 'count', 'shape', 'group', 'decayed', 'adapted')]
  for (pattern, group), (tensors, count, shape, decayed, adapted) in rows.items():
    table.append((pattern, str(tensors), f'{count:,}', shape, group, yes[decayed], yes[adapted]))
  total = sum(row[1] for row in rows.values())
  table.append(('total', str(sum(row[0] for row in rows.values())), f'{total:,}', '', '', '', ''))
  widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
  return '\n'.join(
    '  '.join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in table
  )
