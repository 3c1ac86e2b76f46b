"""Nodes and stored arrays of an ONNX graph that is being written; see `onnx_file`.

The number of images stays open: a network is traced with `BATCH` of them, a prime that nothing else
in it has, and whatever is a multiple of it depends on the images. Numbers of 16 bits become
float32, which is more exact than what the network itself computes.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

BATCH = 1_000_003
INPUT = 'images'


class Graph:
  """Nodes and stored arrays; a value is the name of a tensor, or an array that is known already."""

  def __init__(self, onnx: Any):
    self._onnx = onnx
    self.nodes: list[Any] = []
    self.stored: dict[str, Any] = {}
    self._count = 0
    self._batch = ''

  def name(self, value: Any) -> str:
    """The name of a value; an array is stored."""
    if isinstance(value, str):
      return value
    array = np.asarray(value)
    return self._store(array.astype(np.float32) if _is_half(array.dtype) else array)

  def _store(self, array: np.ndarray) -> str:
    name = self._fresh()
    # ONNX has no order of axes of its own: what is stored lies in rows.
    made = np.ascontiguousarray(array).reshape(array.shape)
    self.stored[name] = self._onnx.numpy_helper.from_array(made, name)
    return name

  def _fresh(self) -> str:
    self._count += 1
    return f't{self._count}'

  def add(self, kind: str, inputs: Sequence[Any], output: str = '', **attributes: Any) -> str:
    """A node with one output; returns the output's name."""
    return self.add_several(kind, inputs, [output or self._fresh()], **attributes)[0]

  def add_several(
    self, kind: str, inputs: Sequence[Any], outputs: Sequence[str] | int, **attributes: Any
  ) -> list[str]:
    """A node with several outputs, their names or how many; returns the names."""
    if isinstance(outputs, int):
      outputs = [self._fresh() for _ in range(outputs)]
    names = [self.name(each) for each in inputs]
    self.nodes.append(self._onnx.helper.make_node(kind, names, outputs, **attributes))
    return list(outputs)

  def sizes(self, shape: Sequence[Any]) -> Any:
    """A shape as an array, or as a tensor where it has the number of images in it."""
    if not any(map(varies, shape)):
      return np.array(shape, np.int64)
    if not self._batch:
      self._batch = self.add('Shape', [INPUT], start=0, end=1)
    parts = []
    for side in shape:
      part = np.array([side // BATCH if varies(side) else side], np.int64)
      parts.append(self.add('Mul', [self._batch, part]) if varies(side) else part)
    return self.add('Concat', parts, axis=0)

  def transposed(self, value: Any, order: Sequence[int]) -> Any:
    """With its axes in another order."""
    if isinstance(value, np.ndarray):
      return value.transpose(order)
    return self.add('Transpose', [value], perm=list(order))

  def kind(self, dtype: Any) -> int:
    """ONNX's number of a type."""
    chosen = np.dtype('float32') if _is_half(dtype) else np.dtype(dtype)
    return self._onnx.helper.np_dtype_to_tensor_dtype(chosen)


def _is_half(dtype: Any) -> bool:
  return np.dtype(dtype).name in ('bfloat16', 'float16')


def varies(side: int) -> bool:
  """Whether a side depends on the number of images."""
  return side > 0 and side % BATCH == 0
