"""Reads pickles of NumPy arrays, such as DeepMind's BYOL checkpoints, without running them.

These are written with `dill` from nested mappings of arrays (Haiku's parameters and state) inside a
named tuple. See `pickles`: here a pickle can note down an array, a NumPy type, bytes, and which
fields a named tuple has; anything else that it names is an inert stand-in, such as the functions by
which dill makes code. Neither dill nor Haiku nor the code that defined the named tuples is needed.

Not read: arrays of objects, strings and records.
"""

import math
import os
import pathlib
import pickle
import re
from typing import Any

import numpy as np

from byoljax.weights import pickles
from byoljax.weights.pickles import Inert, Sealed

_NUMBERS = re.compile(r'[fiu][1248]|b1')


class _Type(metaclass=Sealed):
  """A NumPy type by its code, 'f4'; its state says the byte order."""

  def __init__(self, code: Any = '', *unused: Any):
    del unused
    self.code, self.order = code, '='

  def __setstate__(self, state: Any) -> None:
    self.order = state[1]

  def dtype(self) -> np.dtype:
    """Raises pickle.UnpicklingError: not a plain type of numbers."""
    if not (isinstance(self.code, str) and _NUMBERS.fullmatch(self.code)):
      raise pickle.UnpicklingError(f'it holds arrays of type {self.code!r}')
    return np.dtype(('>' if self.order == '>' else '<') + self.code)


class Noted(metaclass=Sealed):
  """An array as the pickle describes it; not looked at before the pickle has ended."""

  def __init__(self, *parts: Any):
    self.parts = parts

  def __setstate__(self, state: Any) -> None:
    # (version, shape, type, in Fortran's order?, content)
    self.parts = tuple(state[1:])

  def array(self) -> np.ndarray:
    """The numbers.

    Raises:
      pickle.UnpicklingError: not the description of an array that is there.
    """
    shape, kind, fortran, content = self.parts
    if not isinstance(kind, _Type) or not isinstance(content, bytes | bytearray):
      raise pickle.UnpicklingError('it describes an array by something else')
    dtype, shape = kind.dtype(), tuple(map(int, shape))
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != len(content):
      raise pickle.UnpicklingError(f'an array of shape {shape} has {len(content)} bytes')
    flat = np.frombuffer(content, dtype)
    ordered = flat.reshape(shape, order='F' if fortran else 'C')
    return np.ascontiguousarray(ordered, dtype.newbyteorder('=')).reshape(shape)


class _Function:
  """Functions without attributes that a pickle could set."""

  __slots__ = ()


class _Reconstruct(_Function):
  """numpy's: an array without content, which its state fills."""

  __slots__ = ()

  def __call__(self, *unused: Any) -> Noted:
    del unused
    return Noted()


class _FromBuffer(_Function):
  """numpy's since pickle's protocol 5: (content, type, shape, order)."""

  __slots__ = ()

  def __call__(self, content: Any, kind: Any, shape: Any, order: Any) -> Noted:
    return Noted(shape, kind, order == 'F', content)


class _Scalar(_Function):
  """numpy's: (type, content)."""

  __slots__ = ()

  def __call__(self, kind: Any, content: Any = b'') -> Noted:
    return Noted((), kind, False, content)


class _Filled(_Function):
  """jax's and dill's: (numpy's function, its arguments, state, more)."""

  __slots__ = ()

  def __call__(self, function: Any, arguments: Any, state: Any, *unused: Any) -> Any:
    del arguments, unused
    if not isinstance(function, _Reconstruct):
      return Inert()
    noted = Noted()
    noted.__setstate__(state)
    return noted


class _NamedTuple(_Function):
  """dill's: (name, names of the fields, module) -> a class."""

  __slots__ = ()

  def __call__(self, name: Any, fields: Any, *unused: Any) -> type:
    del name, unused
    return Sealed('_Fields', (pickles.Fields,), {'names': tuple(map(str, fields))})


class _Encode(_Function):
  """How protocols below 3 write bytes: text, a character each."""

  __slots__ = ()

  def __call__(self, text: Any, encoding: Any = 'latin1') -> bytes:
    if not isinstance(text, str) or encoding != 'latin1':
      raise pickle.UnpicklingError('it writes bytes in an unusual way')
    return text.encode('latin1')


class _Empty(_Function):
  """How they write no bytes."""

  __slots__ = ()

  def __call__(self) -> bytes:
    return b''


class _Pretraining(pickles.Fields):
  """The state of BYOL's pretraining."""

  names = ('online_params', 'target_params', 'online_state', 'target_state')


class _Evaluation(pickles.Fields):
  """The state of BYOL's linear evaluation."""

  names = ('backbone_params', 'classif_params', 'backbone_state')


_FUNCTIONS: dict[tuple[str, str], Any] = {
  ('numpy', 'dtype'): _Type,
  ('_codecs', 'encode'): _Encode(),
  ('__builtin__', 'bytes'): _Empty(),
  ('builtins', 'bytes'): _Empty(),
  ('byol.byol_experiment', '_ByolExperimentState'): _Pretraining,
  ('byol.eval_experiment', '_EvalExperimentState'): _Evaluation,
  ('jax._src.array', '_reconstruct_array'): _Filled(),
}
for _module in ('_dill', 'dill'):
  _FUNCTIONS |= {
    (f'dill.{_module}', '_create_array'): _Filled(),
    (f'dill.{_module}', '_create_namedtuple'): _NamedTuple(),
  }
for _core in ('core', '_core'):
  _FUNCTIONS |= {
    (f'numpy.{_core}.multiarray', '_reconstruct'): _Reconstruct(),
    (f'numpy.{_core}.multiarray', 'scalar'): _Scalar(),
    (f'numpy.{_core}.numeric', '_frombuffer'): _FromBuffer(),
  }


def read(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
  """All arrays of a pickle by dotted name.

  Args:
    path: a `.pkl` file.

  Returns:
    Arrays such as 'experiment_state.online_params.res_net50/~/initial_conv.w'.

  Raises:
    ValueError: not such a file, damaged, or made to mislead.
  """
  path = pathlib.Path(path)
  try:
    with path.open('rb') as file:
      tree = pickles.Unpickler(file, _FUNCTIONS).load()
    return {name: noted.array() for name, noted in pickles.flat(tree, Noted).items()}
  except OSError as error:
    raise ValueError(f"'{path}' cannot be read: {error.strerror or error}.") from error
  except pickles.WHAT_DAMAGE_RAISES as error:
    why = pickles.why(error)
    raise ValueError(f"'{path}' is no pickle of arrays that can be read: {why}.") from error
