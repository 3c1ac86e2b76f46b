"""Weights of another library as a run's directory, so that everything that takes a run takes them.

What is written looks like a finished run of no steps: `config.json` with the encoder that the
weights belong to and the data that they are to be evaluated on, and `checkpoints/0`.
"""

from collections.abc import Mapping, Sequence
import json
import os
import pathlib
import shlex
from typing import TYPE_CHECKING, Any

from byoljax import config as config_lib
from byoljax.config import Config, ConfigError, expanded, user_errors
from byoljax.tasks.command import Argument, Command
from byoljax.version import versions
from byoljax.wording import counted
from byoljax.workdir import places
from byoljax.workdir.files import write_json
from byoljax.workdir.run_dir import Invocation, say

if TYPE_CHECKING:
  from byoljax.weights.formats import Found

_MOST = 6  # beginnings of names in a list


def run(config: Config, invocation: Invocation) -> int:
  """Makes a run's directory of a file; see `configs/import_weights.py`."""
  from byoljax.weights import importing
  from byoljax.workdir import checkpoint

  if not config.file:
    raise ConfigError('config.file is empty: name a file with weights, such as resnet50.pth.')
  workdir = pathlib.Path(invocation.workdir or default_workdir(config.file))
  places.require_folder(workdir)
  if checkpoint.latest_finished(workdir) is not None or (workdir / 'config.json').exists():
    raise ConfigError(f"'{workdir}' holds a run already: choose another --workdir.")
  with user_errors('config.file'):
    reading = importing.encoder_of(
      config.file,
      config.encoder,
      mean=tuple(config.data.mean),
      std=tuple(config.data.std),
      range_=config.data.range,
      prefix=config.prefix,
      image_size=config.evals.image_size,
    )
  encoder, prefix, found, unread = reading
  as_run = config.copy_and_resolve_references()
  as_run.encoder.update(encoder.fields)
  preprocessing = encoder.preprocessing
  as_run.evals.image_size = preprocessing.image_size
  as_run.data.mean, as_run.data.std = preprocessing.mean, preprocessing.std
  as_run.data.range = preprocessing.range
  _require_heeded(config, as_run, invocation.recipe)
  with user_errors('--workdir'):
    workdir.mkdir(parents=True, exist_ok=True)
    with checkpoint.Checkpoints(workdir, keep=1) as checkpoints:
      checkpoints.save(0, importing.Imported(encoder.params, {'bn': encoder.bn}), {})
  # Last: a directory without it is no run.
  write_json(
    workdir / 'config.json',
    {
      'recipe': invocation.recipe,
      'config': json.loads(as_run.to_json()),
      'versions': versions(),
    },
  )
  say(_describe(encoder.fields, prefix, found))
  heads = [role for role in encoder.params if role != 'encoder']
  if heads:
    start = shlex.quote(f'--init_from={workdir}')
    say(f'With its {", ".join(heads)}: a run starts from both with {start} --init_heads=true.')
  if unread:
    say(f'Not imported: {_listed(unread, prefix)}.')
  say(f'run   {workdir}')
  say(f'next  byoljax knn {shlex.quote(str(workdir))} --data.name=folder --data.dir=photos')
  return 0


def _require_heeded(config: Config, as_run: Config, recipe: str) -> None:
  """Raises ConfigError for a field that was given and is different according to the weights."""
  usual, given, told = map(
    config_lib.flatten, (config_lib.load(recipe) if recipe else config, config, as_run)
  )
  for name, value in given.items():
    if name in told and value not in (usual.get(name, value), told[name]):
      raise ConfigError(
        f'{name}={value!r}, but according to these weights it is {told[name]!r}: leave it out.'
      )


def default_workdir(file: str) -> str:
  """The run of a file or folder: 'runs/resnet50' of 'x/resnet50.pth', 'runs/x' of 'x/export'."""
  place = pathlib.Path(os.path.abspath(expanded(file)))  # A link keeps its name.
  if place.is_dir():
    return f'runs/{place.parent.name if place.name == "export" else place.name}'
  return f'runs/{place.stem}'


def _listed(names: Sequence[str], prefix: str) -> str:
  """Arrays by the beginning of their names: 'decoder_blocks, mask_token (2 arrays)'."""
  parts = dict.fromkeys(
    name.removeprefix(prefix).split('.')[0]
    if name.startswith(prefix)
    else '.'.join(name.split('.')[:2])
    for name in names
  )
  shown = [*parts][:_MOST] + (['...'] if len(parts) > _MOST else [])
  return f'{", ".join(shown)} ({counted(len(names), "array")})'


def _describe(fields: Mapping[str, Any], prefix: str, found: 'Found') -> str:
  """What was found out, in a sentence."""
  width = f' x {fields["width"]}' if fields['width'] > 1 else ''
  form = []
  if 'stem' in found.fields:
    kernels = ' and selective kernels' if fields.get('selective_kernel') else ''
    form.append(f'with the {fields["stem"]} stem{kernels}')
  if 'patch_size' in found.fields:
    form.append(f'with patches of {fields["patch_size"]} pixels')
  if 'positions' in found.fields:
    side = fields['grid'] * fields['patch_size']
    made_for = f' for images of {side}' if side else ''
    form.append(f'{fields["positions"]} positions{made_for} and {found.doubt}')
  behind = f", behind '{prefix}'" if prefix else ''
  scaled = '; images are scaled to [0, 1] and not normalized' if found.std == (1.0,) * 3 else ''
  named = ' '.join(filter(None, (f'{fields["name"]}{width}', ', '.join(form))))
  return f'{named}{behind}: every weight fits{scaled}.'


COMMAND = Command(
  'import',
  "make a run from another library's weights",
  run,
  (Argument('FILE', 'file', 'a file with weights, or a folder with model.safetensors'),),
  task='import',
  recipe='import_weights',
  field='file',
  workdir='runs/<name of FILE>',
)
