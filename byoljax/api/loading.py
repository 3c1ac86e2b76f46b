"""`byoljax.load`: a trained encoder by the name of its run, of a folder, or of the hub."""

import dataclasses
import os
import pathlib
from typing import Any

from byoljax.config import ConfigError, choose, path_of, user_errors
from byoljax.encoders import load as runs
from byoljax.encoders.encoder import EMBEDDING, Encoder
from byoljax.models.taps import taps_of, truncate
from byoljax.weights import exported, hub, importing


def load(
  run: str | os.PathLike[str], network: str = 'online', tap: str = EMBEDDING, *, module: Any = None
) -> Encoder:
  """An encoder that was trained before.

  Args:
    run: a run's directory, or one of its checkpoints/<step>; a folder that `byoljax export` wrote;
      or such a folder on Hugging Face's hub, 'hf:owner/name' or 'hf:owner/name@revision', which is
      fetched and needs `byoljax[hub]`. Nothing in any of them is executed.
    network: of a run: 'online' or 'target'; 'random', 'random_rescaled' and 'pixels' are baselines.
    tap: where it is read out: 'embedding', an inner map such as 'stage1'; of a run also its heads,
      'projection', ...
    module: of a run: the linen module that was trained, where it is one of the user's own; or
      whatever else `models.encoder_factory` takes.

  Raises:
    ConfigError: nothing to load there, or no such tap.
  """
  if isinstance(run, str) and run.startswith(hub.PREFIX):
    name, folder = run, hub.fetch(run)
  else:
    name = path_of('run', run)
    folder = pathlib.Path(name)
    if not exported.is_one(folder):
      return runs.load(name, network, tap, module=module)
  if network != 'online' or module is not None:
    raise ConfigError(
      f"'{name}' is an exported encoder: it has one network, and brings its module."
    )
  with user_errors():
    exported.about(folder, name)  # Other libraries' folders are not taken for ours.
    encoder = importing.encoder_of(str(folder), {}).encoder
  if tap == EMBEDDING:
    return encoder
  choose('tap', tap, taps_of(encoder.net, encoder.preprocessing.example()))
  return dataclasses.replace(encoder, net=truncate(encoder.net, (tap,)), tap=tap)
