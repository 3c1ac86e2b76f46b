"""What the operations of a jaxpr are in ONNX; see `onnx_file`."""

from collections.abc import Callable
import math
from typing import Any

import numpy as np

from byoljax.weights.onnx_graph import BATCH, Graph, varies

_FEATURES_LAST = ((0, 3, 1, 2), (0, 2, 3, 1))
SAME = ('stop_gradient', 'copy', 'copy_p', 'optimization_barrier', 'reduce_precision')
_Writer = Callable[[Graph, Any, list[Any]], Any]


def _plain(kind: str) -> _Writer:
  return lambda graph, eqn, inputs: graph.add(kind, inputs)


def _shape_of(eqn: Any) -> tuple[Any, ...]:
  return eqn.outvars[0].aval.shape


def _reshape(graph: Graph, eqn: Any, inputs: list[Any]) -> str:
  return graph.add('Reshape', [inputs[0], graph.sizes(_shape_of(eqn))])


def _broadcast(graph: Graph, eqn: Any, inputs: list[Any]) -> Any:
  shape, places = _shape_of(eqn), eqn.params['broadcast_dimensions']
  own = eqn.invars[0].aval.shape
  among = [own[places.index(axis)] if axis in places else 1 for axis in range(len(shape))]
  value = inputs[0]
  if isinstance(value, np.ndarray):
    value = value.reshape(among)
  else:
    value = graph.add('Reshape', [value, graph.sizes(among)])
  return value if list(shape) == among else graph.add('Expand', [value, graph.sizes(shape)])


def _reduce(kind: str) -> _Writer:
  def write(graph: Graph, eqn: Any, inputs: list[Any]) -> str:
    axes = np.array(eqn.params['axes'], np.int64)
    return graph.add(kind, [inputs[0], axes], keepdims=0)

  return write


def _convolution(graph: Graph, eqn: Any, inputs: list[Any]) -> str:
  p = eqn.params
  numbers = p['dimension_numbers']
  if any(x != 1 for x in p['lhs_dilation']) or p['batch_group_count'] != 1:
    raise ValueError('this network has a transposed convolution, which is not written as ONNX.')
  images = graph.transposed(inputs[0], numbers.lhs_spec)
  kernel = graph.transposed(inputs[1], numbers.rhs_spec)
  (top, bottom), (left, right) = p['padding']
  made = graph.add(
    'Conv',
    [images, kernel],
    strides=list(p['window_strides']),
    dilations=list(p['rhs_dilation']),
    pads=[top, left, bottom, right],
    group=p['feature_group_count'],
  )
  return graph.transposed(made, np.argsort(numbers.out_spec).tolist())


def _pool(kind: str) -> _Writer:
  def write(graph: Graph, eqn: Any, inputs: list[Any]) -> str:
    p = eqn.params
    window, strides = p['window_dimensions'], p['window_strides']
    if len(window) != 4 or (window[0], window[3]) != (1, 1) or set(p['window_dilation']) != {1}:
      raise ValueError(f'this network has a {kind} that is not written as ONNX.')
    (top, bottom), (left, right) = p['padding'][1:3]
    there, back = _FEATURES_LAST
    more: dict[str, Any] = {'count_include_pad': 1} if kind == 'AveragePool' else {}
    made = graph.add(
      kind,
      [graph.transposed(inputs[0], there)],
      kernel_shape=list(window[1:3]),
      strides=list(strides[1:3]),
      pads=[top, left, bottom, right],
      **more,
    )
    if kind == 'AveragePool':  # A sum is wanted.
      made = graph.add('Mul', [made, np.array(math.prod(window), np.float32)])
    return graph.transposed(made, back)

  return write


def _dot(graph: Graph, eqn: Any, inputs: list[Any]) -> str:
  (left, right), (left_batch, right_batch) = eqn.params['dimension_numbers']
  letters = iter('abcdefghijklmnopqrstuvwxyz')
  first = [next(letters) for _ in eqn.invars[0].aval.shape]
  pairs = dict(zip((*right, *right_batch), (*left, *left_batch), strict=True))
  second = [
    first[pairs[axis]] if axis in pairs else next(letters)
    for axis in range(len(eqn.invars[1].aval.shape))
  ]
  free = [x for axis, x in enumerate(first) if axis not in (*left, *left_batch)]
  free += [x for axis, x in enumerate(second) if axis not in (*right, *right_batch)]
  out = [first[axis] for axis in left_batch] + free
  return graph.add('Einsum', inputs, equation=f'{"".join(first)},{"".join(second)}->{"".join(out)}')


def _pad(graph: Graph, eqn: Any, inputs: list[Any]) -> str:
  config = eqn.params['padding_config']
  if any(low < 0 or high < 0 or inner for low, high, inner in config):
    raise ValueError('this network has a padding that is not written as ONNX.')
  pads = np.array([low for low, _, _ in config] + [high for _, high, _ in config], np.int64)
  return graph.add('Pad', [inputs[0], pads, inputs[1]])


def _chosen(graph: Graph, eqn: Any, inputs: list[Any]) -> str:
  """Entries of each image that are the same for all images: slices, gathers, turns.

  What the operation does to the numbers of the entries themselves says which they are.
  """
  if any(isinstance(each, str) for each in inputs[1:]):
    raise ValueError(f"this network has a '{eqn.primitive.name}' that depends on the images.")
  shape = eqn.invars[0].aval.shape
  own, count = tuple(shape[1:]), 2
  size = math.prod(own)
  numbers = np.arange(count * size, dtype=np.int32).reshape(count, *own)
  params = {name: _counted(value, count) for name, value in eqn.params.items()}
  found = np.asarray(eqn.primitive.bind(numbers, *inputs[1:], **params))
  if not varies(shape[0]) or not np.array_equal(found[1], found[0] + size):
    raise ValueError(f"this network has a '{eqn.primitive.name}' that mixes images.")
  flat = graph.add('Reshape', [inputs[0], graph.sizes((shape[0], size))])
  picked = graph.add('Gather', [flat, found[0].ravel().astype(np.int64)], axis=1)
  return graph.add('Reshape', [picked, graph.sizes(_shape_of(eqn))])


def _counted(value: Any, count: int) -> Any:
  """A parameter with so many images in place of `BATCH`."""
  if isinstance(value, tuple) and not hasattr(value, '_fields'):
    return tuple(_counted(each, count) for each in value)
  if isinstance(value, int) and not isinstance(value, bool) and varies(value):
    return value // BATCH * count
  return value


def _stack(graph: Graph, eqn: Any, inputs: list[Any]) -> str:
  axis = eqn.params.get('axis', eqn.params.get('dimension', 0))
  parts = [graph.add('Unsqueeze', [each, np.array([axis], np.int64)]) for each in inputs]
  return graph.add('Concat', parts, axis=axis)


def _concatenate(graph: Graph, eqn: Any, inputs: list[Any]) -> str:
  return graph.add('Concat', inputs, axis=eqn.params['dimension'])


def _power(graph: Graph, eqn: Any, inputs: list[Any]) -> str:
  return graph.add('Pow', [inputs[0], np.array(eqn.params['y'], np.float32)])


WRITERS: dict[str, _Writer] = {
  'add': _plain('Add'),
  'add_any': _plain('Add'),
  'sub': _plain('Sub'),
  'mul': _plain('Mul'),
  'div': _plain('Div'),
  'max': _plain('Max'),
  'min': _plain('Min'),
  'neg': _plain('Neg'),
  'exp': _plain('Exp'),
  'log': _plain('Log'),
  'abs': _plain('Abs'),
  'sign': _plain('Sign'),
  'sqrt': _plain('Sqrt'),
  'tanh': _plain('Tanh'),
  'sin': _plain('Sin'),
  'cos': _plain('Cos'),
  'erf': _plain('Erf'),
  'floor': _plain('Floor'),
  'logistic': _plain('Sigmoid'),
  'lt': _plain('Less'),
  'le': _plain('LessOrEqual'),
  'gt': _plain('Greater'),
  'ge': _plain('GreaterOrEqual'),
  'eq': _plain('Equal'),
  'pow': _plain('Pow'),
  'integer_pow': _power,
  'square': lambda graph, eqn, x: graph.add('Mul', [x[0], x[0]]),
  'cbrt': lambda graph, eqn, x: graph.add(
    'Mul', [graph.add('Sign', x), graph.add('Pow', [graph.add('Abs', x), np.float32(1 / 3)])]
  ),
  'rsqrt': lambda graph, eqn, x: graph.add('Reciprocal', [graph.add('Sqrt', x)]),
  'erfc': lambda graph, eqn, x: graph.add('Sub', [np.float32(1), graph.add('Erf', x)]),
  'select_n': lambda graph, eqn, x: graph.add('Where', [x[0], x[2], x[1]]),
  'convert_element_type': lambda graph, eqn, x: graph.add(
    'Cast', x, to=graph.kind(eqn.params['new_dtype'])
  ),
  'transpose': lambda graph, eqn, x: graph.transposed(x[0], eqn.params['permutation']),
  'reshape': _reshape,
  'squeeze': _reshape,
  'expand_dims': _reshape,
  'broadcast_in_dim': _broadcast,
  'concatenate': _concatenate,
  'stack': _stack,
  'pad': _pad,
  'slice': _chosen,
  'gather': _chosen,
  'rev': _chosen,
  'reduce_sum': _reduce('ReduceSum'),
  'reduce_max': _reduce('ReduceMax'),
  'reduce_min': _reduce('ReduceMin'),
  'reduce_window_max': _pool('MaxPool'),
  'reduce_window_sum': _pool('AveragePool'),
  'conv_general_dilated': _convolution,
  'dot_general': _dot,
}
