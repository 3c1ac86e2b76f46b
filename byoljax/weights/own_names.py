"""Folders that `exporting.write` made of encoders that no other library has: our own names.

params/stem_conv/kernel, batch_stats/stem_bn/mean, ...   in model.safetensors
{"byoljax": {"encoder": ..., "mean": ..., "std": ..., "image_size": ...}}   in config.json
"""

from collections.abc import Mapping
import json
import pathlib
from typing import Any

from flax.traverse_util import unflatten_dict
import jax
import numpy as np

from byoljax.encoders.encoder import Encoder, Preprocessing, network, pool_of
from byoljax.workdir import checkpoint, stored_config

_TREES = ('params', 'batch_stats')


def is_own(state: Mapping[str, np.ndarray]) -> bool:
  """Whether all names are ours."""
  return bool(state) and all(name.partition('/')[0] in _TREES for name in state)


def encoder_of(folder: pathlib.Path, state: Mapping[str, np.ndarray]) -> Encoder:
  """The encoder of an exported folder.

  Args:
    folder: where the weights were found; its config.json says what network they belong to.
    state: arrays by our names.

  Raises:
    ValueError: no such config.json, or weights that do not fit it; names are listed.
  """
  try:
    about = json.loads((folder / 'config.json').read_text())['byoljax']
    fields: dict[str, Any] = stored_config.stored_encoder(about['encoder'])
    preprocessing = Preprocessing(
      tuple(about['mean']),
      tuple(about['std']),
      int(about['image_size']),
      str(about.get('range', '')),  # Exports of earlier versions are of 8-bit images.
    )
  except (OSError, ValueError, KeyError, TypeError) as error:
    raise ValueError(
      f"'{folder}' holds an encoder of byoljax, but its config.json does not say which ({error})."
    ) from error
  if not fields:
    raise ValueError(f"'{folder}' holds a module of the user's own: read it from its run.")
  trees = unflatten_dict({tuple(name.split('/')): array for name, array in state.items()})
  params, bn = ({'encoder': trees.get(name, {})} for name in _TREES)
  net = network(fields, preprocessing)
  fresh = jax.eval_shape(lambda: net.init(jax.random.key(0), preprocessing.example()))
  checkpoint.require_equal_shapes((params, bn), fresh)
  return Encoder(net, params, bn, preprocessing, pool=pool_of(fields), fields=fields)
