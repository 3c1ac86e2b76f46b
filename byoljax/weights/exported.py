"""What a folder that `exporting.write` made says of its encoder, here or on Hugging Face's hub.

`config.json` has, beside what other libraries read in it, the entry

    "byoljax": {"encoder": as in config.encoder, "tap", "mean", "std", "image_size", "range",
                "version"}

Only that and `model.safetensors` are read: JSON and arrays. The rest of the folder is for people
and for other libraries.
"""

import json
import pathlib
from typing import Any

from byoljax import own
from byoljax.config import expanded
from byoljax.encoders.encoder import EMBEDDING
from byoljax.weights import files
from byoljax.weights.formats import Found
from byoljax.workdir import stored_config

ABOUT = 'config.json'


def is_one(folder: pathlib.Path) -> bool:
  """Whether there is a folder with weights as `exporting.write` names them."""
  return (folder / files.SAFETENSORS).is_file() and (folder / ABOUT).is_file()


def beside(path: str) -> Found | None:
  """What is told of the weights at a path; None of those that byoljax did not export.

  Args:
    path: an exported folder, or the file in it; any other is of another library.

  Raises:
    ValueError: see `about`.
  """
  place = expanded(path)
  folder = place.parent if place.name == files.SAFETENSORS else place
  return about(folder) if is_one(folder) and _stored(folder) is not None else None


def about(folder: pathlib.Path, named: str = '') -> Found:
  """What a folder says of its encoder: all fields of `config.encoder`, and its images.

  Args:
    folder: with weights and what they belong to.
    named: what to call it in messages; the folder itself where empty.

  Raises:
    ValueError: it was not written by byoljax, is a module of somebody's own, or is read out at
      another tap than its embedding.
  """
  try:
    told = _stored(folder)
    name = told['encoder'].get('name', '')
    # The import path of a module is none: what was fetched does not choose what is imported.
    fields = {} if own.is_path(str(name)) else stored_config.stored_encoder(told['encoder'])
    mean, std = (tuple(map(float, told[name])) for name in ('mean', 'std'))
    # Exports of earlier versions are of 8-bit images, and do not say the tap.
    found = Found(fields, int(told['image_size']), mean, std, range=str(told.get('range', '')))
    tap = told.get('tap', EMBEDDING)
  except (ValueError, KeyError, TypeError, AttributeError) as error:
    raise ValueError(
      f"'{named or folder}' was not written by byoljax: its {ABOUT} does not say which encoder it "
      'holds. Weights of other libraries are read from a file: byoljax import model.safetensors.'
    ) from error
  if not fields:
    raise ValueError(
      f"'{named or folder}' is a module of somebody's own, which a folder cannot describe: load it "
      'from its run.'
    )
  if tap != EMBEDDING:
    raise ValueError(
      f"'{named or folder}' is read out at its {tap!r}, which a folder cannot describe: load the "
      'classifier that it was exported from, or use encoder.stablehlo.'
    )
  return found


def _stored(folder: pathlib.Path) -> Any:
  """Its entry in `config.json`; None where there is none."""
  try:
    return json.loads((folder / ABOUT).read_text(encoding='utf-8'))['byoljax']
  except (OSError, ValueError, KeyError, TypeError, RecursionError):
    return None
