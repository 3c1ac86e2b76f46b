"""Pickles from strangers: unpickling that can call nothing but what this package lists.

A pickle is a program: it names functions and calls them. Here every name stands for an entry of a
table of functions that only take note of their arguments, or for `Inert`, which takes everything
and does nothing. The interpreter is Python's own one in Python, not the one in C: that one sets
aside as much memory as a number in the file says.
"""

from collections.abc import Callable, Iterable, Mapping
import pickle
import struct
from typing import Any, BinaryIO
import zipfile

# An attacker's pickle may nest as deep as it likes.
MAX_DEPTH = 64
# ... and say the same thing as often as it likes.
MAX_NODES = 1_000_000

# Unpickling damaged bytes raises whatever the instruction at hand raises.
WHAT_DAMAGE_RAISES = (
  pickle.UnpicklingError, zipfile.BadZipFile, ValueError, TypeError, KeyError, IndexError, EOFError,
  AttributeError, OverflowError, MemoryError, RecursionError, UnicodeError, NotImplementedError,
  ImportError, AssertionError, struct.error,
)  # fmt: skip


def why(error: BaseException) -> str:
  """What a person is told about one of these."""
  said = isinstance(error, pickle.UnpicklingError | zipfile.BadZipFile) and str(error)
  return said or 'it is damaged or cut short'


class Sealed(type):
  """Classes whose attributes a pickle cannot replace."""

  def __setattr__(cls, name: str, value: Any) -> None:
    raise AttributeError(f'{name} stays as it is')


class Inert(metaclass=Sealed):
  """Stands for any class or function that is not known: takes everything, does nothing.

  `args` are what it was made with.
  """

  args: tuple[Any, ...] = ()

  def __new__(cls, *args: Any, **kwargs: Any):
    """Also called without `__init__`, by the instruction NEWOBJ."""
    del kwargs
    made = super().__new__(cls)
    made.args = args
    return made

  def __init__(self, *args: Any, **kwargs: Any):
    del args, kwargs

  def __setstate__(self, state: Any) -> None:
    del state

  def __call__(self, *args: Any, **kwargs: Any) -> 'Inert':
    """What a function that is not known gives."""
    del args, kwargs
    return self

  def __setitem__(self, key: Any, value: Any) -> None:
    del key, value

  def append(self, value: Any) -> None:
    """Ignored."""

  def extend(self, values: Any) -> None:
    """Ignored."""


def _bytearray(unpickler: Any) -> None:
  """The instruction BYTEARRAY8 as bytes: of what is there, whatever its length says."""
  length = int.from_bytes(unpickler.read(8), 'little')
  content = unpickler.read(length)
  if len(content) < length:
    raise EOFError('it ends too early')
  unpickler.append(content)


# pickle.Unpickler is the one in C wherever there is one.
_InPython: Any = pickle._Unpickler  # type: ignore[attr-defined]
# These fetch what this process has registered, or buffers that are not in the file.
_REFUSED = {name[0] for name in (pickle.EXT1, pickle.EXT2, pickle.EXT4, pickle.NEXT_BUFFER)}


class Unpickler(_InPython):
  """Finds nothing but what a table lists.

  Args:
    file: stands where the pickle begins, and where the next thing begins afterwards.
    functions: (module, name) -> what stands for it: a sealed class or an object without attributes.

  Attributes:
    unknown: names of what the pickle names beside, in its order.
  """

  dispatch = {
    instruction: act
    for instruction, act in _InPython.dispatch.items()
    if instruction not in _REFUSED
  } | {pickle.BYTEARRAY8[0]: _bytearray}

  def __init__(self, file: BinaryIO, functions: Mapping[tuple[str, str], Callable[..., Any]]):
    super().__init__(file)
    self._functions = functions
    self.unknown: dict[str, None] = {}

  def find_class(self, module: str, name: str) -> Any:
    """An entry of the table, or a stand-in. Dots in a name are no attributes of anything."""
    found = self._functions.get((module, name), Inert)
    if found is Inert:
      self.unknown[f'{module}.{name}'] = None
    return found


def flat(tree: Any, kinds: type | tuple[type, ...]) -> dict[str, Any]:
  """What is below nested dicts and containers, by dotted name.

  A container that is not known but was made with one dict, like the immutable mappings of Haiku and
  Flax, counts as that dict; entries of a tuple and of a `Fields` have names, too.

  Args:
    tree: what a pickle held.
    kinds: types of what is wanted; everything else is left out.

  Raises:
    pickle.UnpicklingError: there is no end to it: containers that contain each other.
  """
  found: dict[str, Any] = {}
  visited = 0

  def visit(prefix: str, node: Any, depth: int) -> None:
    nonlocal visited
    visited += 1
    if visited > MAX_NODES:
      raise pickle.UnpicklingError(f'it has more than {MAX_NODES} entries')
    if isinstance(node, kinds):
      found[prefix] = node
    elif depth < MAX_DEPTH:
      for key, value in _entries(node):
        visit(f'{prefix}.{key}' if prefix else key, value, depth + 1)

  visit('', tree, 0)
  return found


class Fields(Inert):
  """Stands for a class of named tuples."""

  names: tuple[str, ...] = ()


def _entries(node: Any) -> Iterable[tuple[str, Any]]:
  if isinstance(node, Fields):
    return zip(node.names, node.args, strict=False)
  if isinstance(node, Inert) and len(node.args) == 1:
    node = node.args[0]
  if isinstance(node, dict):
    return ((key, value) for key, value in node.items() if isinstance(key, str))
  if isinstance(node, tuple):
    return ((str(place), value) for place, value in enumerate(node))
  return ()
