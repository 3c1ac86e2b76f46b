"""An encoder from a folder that `exporting.write` made, here or on Hugging Face's hub.

Only `model.safetensors` and `config.json` are read: arrays and JSON. The rest of the folder is for
people and for other libraries.
"""

from collections.abc import Mapping
import json
import pathlib
from typing import Any

from byoljax import own
from byoljax.encoders.encoder import Encoder
from byoljax.weights import files, importing
from byoljax.workdir import stored_config

ABOUT = 'config.json'


def is_one(folder: pathlib.Path) -> bool:
  """Whether there is a folder with weights as `exporting.write` names them."""
  return (folder / files.SAFETENSORS).is_file() and (folder / ABOUT).is_file()


def read(folder: pathlib.Path, named: str = '') -> Encoder:
  """The encoder of a folder.

  Args:
    folder: with weights and what they belong to.
    named: what to call it in messages; the folder itself where empty.

  Raises:
    ValueError: it was not written by byoljax, or cannot be read.
  """
  told = about(folder, named)
  reading = importing.encoder_of(
    str(folder / files.SAFETENSORS),
    stored_config.stored_encoder(told['encoder']),
    mean=tuple(map(float, told['mean'])),
    std=tuple(map(float, told['std'])),
    image_size=int(told['image_size']),
  )
  return reading.encoder


def about(folder: pathlib.Path, named: str = '') -> Mapping[str, Any]:
  """What a folder says of its encoder: 'encoder', as in `config.encoder`, 'mean', 'std', ...

  Raises:
    ValueError: it was not written by byoljax, or is a module of somebody's own.
  """
  try:
    told = json.loads((folder / ABOUT).read_text(encoding='utf-8'))['byoljax']
    if not all(isinstance(told[name], list) for name in ('mean', 'std')):
      raise TypeError('no list of numbers')
    int(told['image_size'])
    dict(told['encoder'])
  except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
    raise ValueError(
      f"'{named or folder}' was not written by byoljax: its {ABOUT} does not say which encoder it "
      'holds. Weights of other libraries are read from a file: byoljax import model.safetensors.'
    ) from error
  # The import path of a module is none either: what was fetched does not choose what is imported.
  if not told['encoder'] or own.is_path(str(told['encoder'].get('name', ''))):
    raise ValueError(
      f"'{named or folder}' is a module of somebody's own, which a folder cannot describe: load it "
      'from its run.'
    )
  return told
