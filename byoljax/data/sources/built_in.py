"""What the built-in sets share: random numbers by example, balanced labels, a cache; NumPy only."""

from collections.abc import Callable, Mapping, Sequence
import contextlib
import os
from typing import Any
import zipfile

import numpy as np

from byoljax.workdir.files import replacing

_Array = np.ndarray


def default_data_dir() -> str:
  """Where prepared data live: $BYOLJAX_DATA, else ~/.cache/byoljax."""
  chosen = os.environ.get('BYOLJAX_DATA') or os.path.join('~', '.cache', 'byoljax')
  return os.path.abspath(os.path.expanduser(chosen))


def directory_of(data_dir: str | None) -> str:
  """The cache directory, `default_data_dir()` for None or ''."""
  return os.path.abspath(os.path.expanduser(data_dir or default_data_dir()))


def generator(seed: int, stream: int, index: int) -> np.random.Generator:
  """The counter-based random numbers of one example; streams are apart from each other."""
  key = [seed, stream << 48 | index]
  return np.random.Generator(np.random.Philox(key=np.array(key, np.uint64)))


def balanced_label(seed: int, stream: int, index: int, count: int) -> int:
  """One of `count` classes: so many neighbors hold each class once, in random order."""
  order = generator(seed, stream, index // count).permutation(count)
  return int(order[index % count])


def check(name: str, splits: Sequence[str] | Mapping[str, int], split: str, index: int = 0) -> None:
  """Raises ValueError for an unknown split or a negative index."""
  if split not in splits:
    raise ValueError(f"{name} has no split {split!r}: use 'train' or 'test'.")
  if index < 0:
    raise ValueError(f'index {index} is negative: examples are numbered from 0.')


def cached(
  path: str, shapes: Mapping[str, tuple[int, ...]], draw: Callable[[], Mapping[str, Any]]
) -> dict[str, _Array]:
  """The arrays of a file, drawn and written when it is missing or damaged.

  Args:
    path: of an `.npz`; where it cannot be written the arrays are drawn anew by every call.
    shapes: of the arrays that are wanted, by name.
    draw: () -> all arrays of the file by name.
  """
  # A missing, truncated or foreign file is replaced: it can always be drawn again.
  with contextlib.suppress(OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
    with open(path, 'rb') as file, np.load(file) as kept:
      found = {name: kept[name] for name in shapes}
    if all(found[name].shape == shape for name, shape in shapes.items()):
      return found
  made = draw()
  with contextlib.suppress(OSError):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with replacing(path) as file:
      np.savez(file, **made)
  return {name: made[name] for name in shapes}
