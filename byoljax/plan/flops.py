"""Counts the FLOPs and the collectives of a traced function, exactly and for every platform alike.

XLA's own `cost_analysis` is missing where the compiler calls a library (convolutions on GPUs), and
counts the program after a backend's optimization. Here the matrix products and convolutions of the
jaxpr are counted: a multiply-add is two operations, and products with the zeros of padding and
dilation are excluded, as in XLA's count. Element-wise operations are not counted: they are bound by
memory bandwidth, not by peak FLOP/s.

A `scan` is multiplied by its length. Of a `cond` the branch with the most work counts, and its
collectives are kept separate, because in a train step only logged steps run them. A `while` has no
known length and counts once; `Work.unknown_loops` reports it.

`rounds` is the length of the longest chain of dependent collectives, such as synchronized batch
normalization layer by layer, forward and backward. Compilers merge independent ones, such as those
of all gradients, so this is how often a step must wait for the latency of the whole machine.
"""

from collections import Counter
from collections.abc import Iterable
import math
from typing import Any, NamedTuple

import jax
import jax.extend.core
import numpy as np


class Work(NamedTuple):
  """The work of a function, per device inside `shard_map`.

  Attributes:
    flops: dtype of the operands -> floating-point operations.
    collectives: kind -> (calls, bytes of their results), as written: the compiler merges some.
    unknown_loops: `while` loops with products or collectives in them.
    rounds: length of the longest chain of dependent collectives; set by `count`.
    conditional: like `collectives`, those inside the branches of a `cond`.
  """

  flops: Counter
  collectives: dict[str, tuple[int, int]]
  unknown_loops: int
  rounds: int = 0
  conditional: dict[str, tuple[int, int]] = {}

  @property
  def total(self) -> int:
    """Floating-point operations of all dtypes."""
    return sum(self.flops.values())


_KINDS = {
  'psum': 'all-reduce', 'psum_invariant': 'all-reduce', 'pmax': 'all-reduce', 'pmin': 'all-reduce',
  'all_gather': 'all-gather', 'all_gather_invariant': 'all-gather',
  'reduce_scatter': 'reduce-scatter', 'psum_scatter': 'reduce-scatter',
  'ppermute': 'collective-permute', 'all_to_all': 'all-to-all',
}  # fmt: skip


def count(function: Any, *arguments: Any) -> Work:
  """Counts `function(*arguments)`; the arguments may be `jax.ShapeDtypeStruct`."""
  jaxpr = jax.make_jaxpr(function)(*arguments).jaxpr
  return count_jaxpr(jaxpr)._replace(rounds=rounds(jaxpr))


def rounds(jaxpr: Any) -> int:
  """Length of the longest chain of dependent collectives."""
  return max(_depths(jaxpr, [0] * len(jaxpr.invars)), default=0)


def count_jaxpr(jaxpr: Any) -> Work:
  """Counts a jaxpr, including everything it calls."""
  total = Work(Counter(), {}, 0)
  for equation in jaxpr.eqns:
    total = _add(total, _equation(equation))
  return total


def _equation(equation: Any) -> Work:
  name, params = equation.primitive.name, equation.params
  if name in ('dot_general', 'conv_general_dilated'):
    lhs, rhs, out = (v.aval.shape for v in (*equation.invars[:2], equation.outvars[0]))
    if name == 'dot_general':
      return _products(equation, dot_flops(lhs, out, params['dimension_numbers']))
    return _products(equation, conv_flops(lhs, rhs, out, params))
  if name in _KINDS:
    size = sum(_bytes(variable.aval) for variable in equation.outvars)
    # One primitive has a whole tree as operand; each leaf is a call.
    return Work(Counter(), {_KINDS[name]: (len(equation.outvars), size)}, 0)
  inner = [count_jaxpr(each) for each in _inner(params.values())]
  if not inner:
    return Work(Counter(), {}, 0)
  if name == 'cond':
    branch = max(inner, key=lambda work: (work.total, len(work.collectives)))
    apart = _joined(branch.conditional, branch.collectives)
    return branch._replace(collectives={}, conditional=apart)
  result = inner[0]
  for work in inner[1:]:
    result = _add(result, work)
  if name == 'scan':
    return _times(result, params['length'])
  if name == 'while' and (result.flops or result.collectives):
    return result._replace(unknown_loops=result.unknown_loops + 1)
  return result


def _depths(jaxpr: Any, depths: list[int]) -> list[int]:
  """Collectives on the longest path to each output; the last entry is the maximum of all."""
  known = dict(zip(jaxpr.invars, depths, strict=True))
  deepest = max(depths, default=0)
  for equation in jaxpr.eqns:
    name, params = equation.primitive.name, equation.params
    given = _looked_up(known, equation.invars)
    before = max(given, default=0)
    inner = _inner(params.values())
    if name in _KINDS:
      after = [before + 1] * len(equation.outvars)
    elif name != 'scan' and len(inner) == 1 and _same_signature(inner[0], equation):
      *after, inside = _depths(inner[0], given)
      deepest = max(deepest, inside)
    else:
      # Loops as one block: each iteration waits for the one before. What a condition transfers is
      # counted apart.
      chain = max((_depths(each, [0] * len(each.invars))[-1] for each in inner), default=0)
      passes = params['length'] if name == 'scan' else name != 'cond'
      after = [before + chain * passes] * len(equation.outvars)
    deepest = max(deepest, *after) if after else deepest
    known.update(zip(equation.outvars, after, strict=True))
  return [*_looked_up(known, jaxpr.outvars), deepest]


def _looked_up(known: dict[Any, int], variables: Iterable[Any]) -> list[int]:
  literal = jax.extend.core.Literal
  return [0 if isinstance(v, literal) else known.get(v, 0) for v in variables]


def _same_signature(jaxpr: Any, equation: Any) -> bool:
  """Whether a called jaxpr has the inputs and outputs of the equation, one to one."""
  return len(jaxpr.invars) == len(equation.invars) and len(jaxpr.outvars) == len(equation.outvars)


def dot_flops(lhs: tuple[int, ...], out: tuple[int, ...], dimension_numbers: Any) -> int:
  """Operations of a `dot_general`: 2 x elements of the result x elements contracted."""
  (contracted, _), _ = dimension_numbers
  return 2 * math.prod(out) * math.prod(lhs[axis] for axis in contracted)


def conv_flops(
  lhs: tuple[int, ...], rhs: tuple[int, ...], out: tuple[int, ...], params: Any
) -> int:
  """Operations of a `conv_general_dilated`, excluding products with zeros of padding and dilation.

  2 x batch x output features x input features per group x prod over the spatial axes of the number
  of pairs (output position, kernel position) that touch an input element.
  """
  numbers = params['dimension_numbers']
  pairs = 1
  for axis, (low, _) in enumerate(params['padding']):
    pairs *= _pairs(
      lhs[numbers.lhs_spec[2 + axis]],
      rhs[numbers.rhs_spec[2 + axis]],
      out[numbers.out_spec[2 + axis]],
      stride=params['window_strides'][axis],
      low=low,
      lhs_dilation=params['lhs_dilation'][axis],
      rhs_dilation=params['rhs_dilation'][axis],
    )
  batch, features = out[numbers.out_spec[0]], out[numbers.out_spec[1]]
  return 2 * batch * features * rhs[numbers.rhs_spec[1]] * pairs


def _pairs(
  size: int, kernel: int, out: int, *, stride: int, low: int, lhs_dilation: int, rhs_dilation: int
) -> int:
  position = np.arange(out)[:, None] * stride + np.arange(kernel) * rhs_dilation - low
  inside = (position >= 0) & (position <= (size - 1) * lhs_dilation)
  return int(np.sum(inside & (position % lhs_dilation == 0)))


def _products(equation: Any, flops: int) -> Work:
  dtype = max((v.aval.dtype for v in equation.invars[:2]), key=lambda d: d.itemsize)
  return Work(Counter({str(dtype): flops}), {}, 0)


def _bytes(aval: Any) -> int:
  return math.prod(aval.shape) * aval.dtype.itemsize


def _inner(values: Iterable[Any]) -> list[Any]:
  """The jaxprs among an equation's parameters."""
  found = []
  for value in values:
    if isinstance(value, jax.extend.core.ClosedJaxpr):
      found.append(value.jaxpr)
    elif isinstance(value, jax.extend.core.Jaxpr):
      found.append(value)
    elif isinstance(value, (tuple, list)):
      found += _inner(value)
  return found


def _add(a: Work, b: Work) -> Work:
  return Work(
    a.flops + b.flops,
    _joined(a.collectives, b.collectives),
    a.unknown_loops + b.unknown_loops,
    conditional=_joined(a.conditional, b.conditional),
  )


def _joined(
  a: dict[str, tuple[int, int]], b: dict[str, tuple[int, int]]
) -> dict[str, tuple[int, int]]:
  return {
    kind: tuple(np.add(a.get(kind, (0, 0)), b.get(kind, (0, 0))).tolist()) for kind in {**a, **b}
  }


def _times(work: Work, times: int) -> Work:
  def scaled(collectives: dict[str, tuple[int, int]]) -> dict[str, tuple[int, int]]:
    return {kind: (calls * times, size * times) for kind, (calls, size) in collectives.items()}

  return Work(
    Counter({dtype: flops * times for dtype, flops in work.flops.items()}),
    scaled(work.collectives),
    work.unknown_loops,
    conditional=scaled(work.conditional),
  )
