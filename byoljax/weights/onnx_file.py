"""A function of images as ONNX, translated from its jaxpr; needs the package onnx.

    data = onnx_file.model(embed, jax.ShapeDtypeStruct((32, 32, 3), np.uint8))

The converters that exist pin other versions of what byoljax needs (jax2onnx) or take the way round
by TensorFlow (jax2tf with tf2onnx). What a network does when it is evaluated is few operations:
whatever depends on weights alone is computed here and stored, and the rest has its counterpart in
ONNX (`onnx_operations`).
"""

from collections.abc import Callable, Sequence
import importlib
from typing import Any

import jax
from jax.extend import core
import numpy as np

from byoljax.weights.onnx_graph import BATCH, INPUT, Graph, varies
from byoljax.weights.onnx_operations import SAME, WRITERS

OPSET = 18
_IR_VERSION = 9  # the oldest that this opset may have, for older runtimes
OUTPUT = 'output'
# Operations that are one pass of the jaxpr in this parameter; loops have a jaxpr, too.
_CALLS = {
  'jit': 'jaxpr',
  'pjit': 'jaxpr',
  'remat2': 'jaxpr',
  'closed_call': 'call_jaxpr',
  'custom_jvp_call': 'call_jaxpr',
  'custom_vjp_call': 'call_jaxpr',
}


def model(
  function: Callable[[jax.Array], jax.Array],
  image: jax.ShapeDtypeStruct,
  then: Callable[[Graph, str], str] | None = None,
) -> bytes:
  """A function of images with all that it closes over.

  Args:
    function: images [b, ...] -> float32 [b, D], to be traced.
    image: shape and type of one image.
    then: (graph, name of the function's result) -> name of the output [b, K], written by hand;
      None: the result itself.

  Returns:
    The file: input 'images', output 'output', both with any number of rows.

  Raises:
    ValueError: onnx is not installed, or the function does something that has no translation.
  """
  try:
    onnx = importlib.import_module('onnx')
  except ImportError as error:
    raise ValueError("ONNX is written by the package onnx: pip install 'byoljax[onnx]'.") from error
  traced = jax.make_jaxpr(function)(jax.ShapeDtypeStruct((BATCH, *image.shape), image.dtype))
  graph = Graph(onnx)
  (result,) = _translated(graph, traced.jaxpr, traced.consts, [INPUT])
  result = result if then is None else then(graph, graph.name(result))
  graph.add('Identity', [result], output=OUTPUT)
  helper, kinds = onnx.helper, onnx.TensorProto
  made = helper.make_graph(
    graph.nodes,
    'byoljax',
    [helper.make_tensor_value_info(INPUT, graph.kind(image.dtype), ['b', *image.shape])],
    [helper.make_tensor_value_info(OUTPUT, kinds.FLOAT, ['b', None])],
    list(graph.stored.values()),
  )
  opset = helper.make_opsetid('', OPSET)
  written = helper.make_model(made, opset_imports=[opset], producer_name='byoljax')
  written.ir_version = _IR_VERSION
  onnx.checker.check_model(written)
  return written.SerializeToString()


def _translated(graph: Graph, jaxpr: Any, consts: Sequence[Any], given: Sequence[Any]) -> list[Any]:
  """The results of a jaxpr, once its operations are in the graph."""
  known: dict[Any, Any] = {}

  def value(of: Any) -> Any:
    return np.asarray(of.val) if isinstance(of, core.Literal) else known[of]

  known.update(zip(jaxpr.constvars, map(np.asarray, consts), strict=True))
  known.update(zip(jaxpr.invars, given, strict=True))
  for eqn in jaxpr.eqns:
    inputs = [value(of) for of in eqn.invars]
    known.update(zip(eqn.outvars, _results(graph, eqn, inputs), strict=True))
  return [value(of) for of in jaxpr.outvars]


def _results(graph: Graph, eqn: Any, inputs: list[Any]) -> list[Any]:
  name = eqn.primitive.name
  if name in _CALLS:
    inner = eqn.params[_CALLS[name]]
    if isinstance(inner, core.ClosedJaxpr):
      return _translated(graph, inner.jaxpr, inner.consts, inputs)
    return _translated(graph, inner, (), inputs)
  if all(isinstance(each, np.ndarray) for each in inputs) and _is_static(eqn):
    made = eqn.primitive.bind(*inputs, **eqn.params)
    return [np.asarray(x) for x in (made if eqn.primitive.multiple_results else [made])]
  if name in SAME:
    return [inputs[0]]
  if name not in WRITERS:
    raise ValueError(f"this network has an operation '{name}' that is not written as ONNX.")
  return [WRITERS[name](graph, eqn, inputs)]


def _is_static(eqn: Any) -> bool:
  """Whether no result has the number of images in its shape."""
  return not any(varies(side) for out in eqn.outvars for side in out.aval.shape)
