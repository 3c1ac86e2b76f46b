"""Other libraries' weights as a run's directory, so that everything that takes a run takes them.

What is written looks like a finished run of no steps: `config.json` with the encoder that the
weights belong to and the data that they are to be evaluated on, and `checkpoints/0`.
"""

from collections.abc import Mapping
import json
import pathlib
from typing import Any

import flax.struct
import jax
import numpy as np

from byoljax import checkpoint, evaluate
from byoljax.config import Config, ConfigError, user_errors
from byoljax.evaluate import Encoder
from byoljax.models.resnet import RESNETS
from byoljax.weights import files, torch_names
from byoljax.workdirs import Invocation, say

PyTree = Any


class Imported(flax.struct.PyTreeNode):
  """A checkpoint's state with an encoder and nothing else.

  Attributes:
    params: {'encoder': parameters}.
    method_state: {'bn': {'encoder': running statistics}}.
  """

  params: PyTree
  method_state: PyTree


def encoder_of(
  path: str, fields: Mapping[str, Any], *, prefix: str = '', image_size: int = 224
) -> tuple[Encoder, str]:
  """The encoder whose weights lie in a file.

  Args:
    path: safetensors, a PyTorch checkpoint, or a folder that `exporting.write` made.
    fields: as in `config.encoder`; which ResNet it is, its width and its stem are found out.
    prefix: of the encoder's names; needed only where the file holds several encoders.
    image_size: side S of the images that it will see.

  Returns:
    The encoder, and the prefix.

  Raises:
    ValueError: the file cannot be read, holds no ResNet or several, or weights that do not fit.
  """
  state = files.read(path)
  found = torch_names.prefixes(state)
  if prefix and prefix not in found:
    raise ValueError(f"no ResNet has names that begin with '{prefix}'; {_choices(found, state)}")
  if not prefix and len(found) != 1:
    raise ValueError(f"'{path}' holds {len(found)} ResNets; {_choices(found, state)}")
  prefix = prefix or found[0]
  which = torch_names.architecture(state, prefix, RESNETS)
  fields = dict(fields) | {'name': which.name, 'width': which.width, 'stem': which.stem}
  net = evaluate.network(fields)
  image = jax.ShapeDtypeStruct((2, image_size, image_size, 3), np.float32)
  params, bn = jax.eval_shape(lambda: net.init(jax.random.key(0), image))
  made = torch_names.from_torch(state, params['encoder'], bn['encoder'], prefix)
  return Encoder(fields, net, *({'encoder': tree} for tree in made)), prefix


def _choices(found: list[str], state: Mapping[str, np.ndarray]) -> str:
  if found:
    return 'set prefix to one of ' + ', '.join(repr(name) for name in found) + '.'
  some = ', '.join(list(state)[:5]) or 'nothing'
  return f"there are no names like torchvision's (conv1.weight, layer1.0.conv1.weight): {some}, ..."


def import_weights(config: Config, invocation: Invocation) -> int:
  """Task: makes a run's directory of a file; see `configs/import_weights.py`."""
  if not config.file:
    raise ConfigError('config.file is empty: name a .safetensors or PyTorch file.')
  workdir = pathlib.Path(invocation.workdir or f'runs/{pathlib.Path(config.file).stem}')
  if checkpoint.latest_finished(workdir) is not None or (workdir / 'config.json').exists():
    raise ConfigError(f"'{workdir}' holds a run already: choose another --workdir.")
  with user_errors('config.file'):
    encoder, prefix = encoder_of(
      config.file, config.encoder, prefix=config.prefix, image_size=config.evals.image_size
    )
  as_run = config.copy_and_resolve_references()
  as_run.encoder.update(encoder.fields)
  with user_errors('--workdir'):
    workdir.mkdir(parents=True, exist_ok=True)
    with checkpoint.Checkpoints(workdir, keep=1) as checkpoints:
      checkpoints.save(0, Imported(encoder.params, {'bn': encoder.bn}), {})
  # Last: a directory without it is no run.
  checkpoint.write_json(
    workdir / 'config.json',
    {
      'recipe': invocation.recipe,
      'config': json.loads(as_run.to_json()),
      'versions': checkpoint.versions(),
    },
  )
  fields = encoder.fields
  width = f' x {fields["width"]}' if fields['width'] > 1 else ''
  behind = f" behind '{prefix}'" if prefix else ''
  say(f'{fields["name"]}{width} with the {fields["stem"]} stem{behind}: every weight fits.')
  say(f'run  {workdir}  (--config.pretrained={workdir})')
  return 0
