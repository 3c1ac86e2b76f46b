"""Weights in files of other libraries, as arrays by name."""

import os
import pathlib

import numpy as np

from byoljax.weights import torch_file

SAFETENSORS = 'model.safetensors'


def read(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
  """All tensors of a safetensors file, or of a PyTorch checkpoint, which is never executed.

  Args:
    path: the file, or a folder with a `model.safetensors`.

  Raises:
    ValueError: no such file, or none of these; says what is wrong.
  """
  file = pathlib.Path(path).expanduser()
  if file.is_dir():
    file = file / SAFETENSORS
  if not file.is_file():
    raise ValueError(f"there is no file '{file}'.")
  return _safetensors(file) if file.suffix == '.safetensors' else torch_file.read(file)


def _safetensors(file: pathlib.Path) -> dict[str, np.ndarray]:
  import safetensors
  from safetensors import flax

  try:
    # By way of JAX arrays: NumPy alone has no bfloat16.
    return {name: np.asarray(array) for name, array in flax.load_file(file).items()}
  except (safetensors.SafetensorError, OSError, ValueError, KeyError) as error:
    raise ValueError(f"'{file}' is no safetensors file that can be read: {error}.") from error
