"""Other libraries' weights as a run's directory, so that everything that takes a run takes them.

What is written looks like a finished run of no steps: `config.json` with the encoder that the
weights belong to and the data that they are to be evaluated on, and `checkpoints/0`.
"""

from collections.abc import Mapping
import json
import pathlib
from typing import Any, NamedTuple

import flax.struct
import jax
import numpy as np

from byoljax.config import Config, ConfigError, user_errors
from byoljax.encoders.encoder import Encoder, Preprocessing, network, pool_of
from byoljax.weights import (
  files,
  formats,
  haiku_names,
  own_names,
  simclr_names,
  torch_names,
  vit_names,
)
from byoljax.weights.formats import Format, Found
from byoljax.workdir import checkpoint
from byoljax.workdir.run_dir import Invocation, say

PyTree = Any
DEFAULT_SIZE = 224  # where neither weights nor configuration say a size
# What most published weights were trained with.
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Imported(flax.struct.PyTreeNode):
  """A checkpoint's state with an encoder and nothing else.

  Attributes:
    params: {'encoder': parameters}.
    method_state: {'bn': {'encoder': running statistics}}.
  """

  params: PyTree
  method_state: PyTree


FORMATS = (torch_names.FORMAT, vit_names.FORMAT, simclr_names.FORMAT, haiku_names.FORMAT)


class Reading(NamedTuple):
  """An encoder from another library, and how it was made to be used.

  Attributes:
    encoder: see `Encoder`.
    prefix: what stood before its names.
    found: what its weights told.
  """

  encoder: Encoder
  prefix: str
  found: Found


def encoder_of(
  path: str,
  fields: Mapping[str, Any],
  *,
  mean: tuple[float, ...] = IMAGENET_MEAN,
  std: tuple[float, ...] = IMAGENET_STD,
  prefix: str = '',
  image_size: int = 0,
) -> Reading:
  """The encoder whose weights are in a file.

  Args:
    path: any file or folder that `files.read` takes, or a folder that `exporting.write` made.
    fields: as in `config.encoder`; what follows from the weights is found out.
    mean: of images, per channel, where the weights do not tell.
    std: of images, per channel, where the weights do not tell.
    prefix: of the encoder's names; needed only where the file holds several encoders.
    image_size: side S of the images that it will see; 0 for what the weights were made for.

  Raises:
    ValueError: the file cannot be read, holds no encoder or several, or weights that do not fit.
  """
  state = files.read(path)
  if own_names.is_own(state):
    home = pathlib.Path(path).expanduser()
    encoder = own_names.encoder_of(home if home.is_dir() else home.parent, state)
    own = encoder.preprocessing
    return Reading(encoder, '', Found(dict(encoder.fields), own.image_size, own.mean, own.std))
  found = [(form, start) for form in FORMATS for start in form.prefixes(state)]
  chosen = [each for each in found if each[1] == prefix] if prefix else found
  if len(chosen) != 1:
    begin = f" with names that begin with '{prefix}'" if prefix else ''
    raise ValueError(f"'{path}' holds {len(chosen)} encoders{begin}; {_choices(found, state)}")
  form, prefix = chosen[0]
  told = form.find_out(state, prefix, fields)
  fields = dict(fields) | told.fields
  side = image_size or told.image_size or DEFAULT_SIZE
  preprocessing = Preprocessing(told.mean or mean, told.std or std, side)
  net = network(fields, preprocessing)
  params, bn = jax.eval_shape(lambda: net.init(jax.random.key(0), preprocessing.example()))
  trees = formats.placed(form, state, prefix, told, params['encoder'], bn['encoder'])
  own_params, own_bn = ({'encoder': tree} for tree in trees)
  encoder = Encoder(net, own_params, own_bn, preprocessing, pool=pool_of(fields), fields=fields)
  return Reading(encoder, prefix, told._replace(image_size=side))


def _choices(found: list[tuple[Format, str]], state: Mapping[str, np.ndarray]) -> str:
  if found:
    return 'set prefix to one of ' + ', '.join(repr(name) for _, name in found) + '.'
  some = ', '.join(list(state)[:5]) or 'nothing'
  known = '; '.join(form.what for form in FORMATS)
  return f'its names are {some}, ..., and known are {known}.'


def import_weights(config: Config, invocation: Invocation) -> int:
  """Task: makes a run's directory of a file; see `configs/import_weights.py`."""
  if not config.file:
    raise ConfigError('config.file is empty: name a file with weights, such as resnet50.pth.')
  workdir = pathlib.Path(invocation.workdir or f'runs/{pathlib.Path(config.file).stem}')
  if checkpoint.latest_finished(workdir) is not None or (workdir / 'config.json').exists():
    raise ConfigError(f"'{workdir}' holds a run already: choose another --workdir.")
  with user_errors('config.file'):
    encoder, prefix, found = encoder_of(
      config.file,
      config.encoder,
      mean=tuple(config.data.mean),
      std=tuple(config.data.std),
      prefix=config.prefix,
      image_size=config.evals.image_size,
    )
  as_run = config.copy_and_resolve_references()
  as_run.encoder.update(encoder.fields)
  preprocessing = encoder.preprocessing
  as_run.evals.image_size = preprocessing.image_size
  as_run.data.mean, as_run.data.std = preprocessing.mean, preprocessing.std
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
  say(_describe(encoder.fields, prefix, found))
  say(f'run  {workdir}  (--config.pretrained={workdir})')
  return 0


def _describe(fields: Mapping[str, Any], prefix: str, found: Found) -> str:
  """What was found, in a sentence."""
  width = f' x {fields["width"]}' if fields['width'] > 1 else ''
  if 'stem' in found.fields:
    kernels = ' and selective kernels' if fields.get('selective_kernel') else ''
    form = f' with the {fields["stem"]} stem{kernels}'
  else:
    form = (
      f' with patches of {fields["patch_size"]} pixels, {fields["positions"]} positions for images '
      f'of {fields["grid"] * fields["patch_size"]} and {found.doubt}'
    )
  behind = f", behind '{prefix}'" if prefix else ''
  scaled = '; images are scaled to [0, 1] and not normalized' if found.std == (1.0,) * 3 else ''
  return f'{fields["name"]}{width}{form}{behind}: every weight fits{scaled}.'
