"""Weights in files of other libraries, as arrays by name."""

import os
import pathlib

import numpy as np

from byoljax.config import expanded
from byoljax.weights import array_pickle, tf_file, torch_file

SAFETENSORS = 'model.safetensors'
PICKLES = ('.pkl', '.pickle', '.dill')


def read(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
  """All arrays of a file, in which nothing is ever executed.

  Args:
    path: safetensors, a PyTorch checkpoint, a pickle of arrays, a TensorFlow checkpoint
      ('model.ckpt-1000' or any of its files), or a folder with one of the first or the last.

  Raises:
    ValueError: no such file, or none of these; says what is wrong.
  """
  file = expanded(path)
  if file.is_dir() and (file / SAFETENSORS).is_file():
    file = file / SAFETENSORS
  if index := tf_file.index_of(file):
    return tf_file.read(index)
  if file.is_dir():
    raise ValueError(f"there is neither a {SAFETENSORS} nor a TensorFlow checkpoint in '{file}'.")
  if not file.is_file():
    raise ValueError(f"there is no file '{file}'.")
  if file.suffix == '.safetensors':
    return _safetensors(file)
  if file.suffix in PICKLES and not torch_file.is_torch_file(file):
    return array_pickle.read(file)
  return torch_file.read(file)


def _safetensors(file: pathlib.Path) -> dict[str, np.ndarray]:
  import safetensors
  from safetensors import numpy

  try:
    # Copies: what it returns may be the file itself, which somebody may write again.
    return {name: np.array(array) for name, array in numpy.load_file(file).items()}
  except (safetensors.SafetensorError, OSError, ValueError, TypeError, AttributeError) as error:
    raise ValueError(f"'{file}' is no safetensors file that can be read: {error}.") from error
