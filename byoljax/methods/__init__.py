"""The table of methods: name in a configuration -> builder.

A builder is called as `build(make_encoder, setting, **fields of config.method)` and returns a
`byoljax.method.Method`. Adding a method is one file here, one line below, one configuration and one
row in the contract test.
"""

from collections.abc import Callable, Mapping
import functools
import inspect
import math
from typing import Any

from byoljax import own
from byoljax.method import MakeEncoder, Method, Setting
from byoljax.methods.generative import (
  beit,
  dvae,
  image_gpt,
  masked_tokens,
  pixelcnn,
  pixelcnn_pp,
  prior,
  vq_gan,
  vq_vae,
)
from byoljax.methods.joint_embedding import (
  barlow_twins,
  bridge,
  byol,
  deepcluster,
  deepcluster_v2,
  dino,
  instance_discrimination,
  interclr,
  moco,
  moco_v3,
  nnclr,
  simclr,
  simsiam,
  swav,
  triplet,
  vicreg,
  w_mse,
)
from byoljax.methods.pretext import (
  augmentation_prediction,
  counting,
  exemplar,
  geometric,
  jigsaw,
  multi_task,
  relative_patch_location,
  rotation,
)
from byoljax.methods.reconstruction import (
  colorization,
  context_encoder,
  denoising_autoencoder,
  mae,
  motion_segmentation,
  split_brain,
)
from byoljax.methods.supervised import (
  depth,
  detection,
  distillation,
  fixmatch,
  linear_probe,
  segmentation,
  supervised,
)
from byoljax.suggest import check_name, unknown

METHODS: dict[str, Callable[..., Method]] = {
  'augmentation_prediction': augmentation_prediction.build,
  'barlow_twins': barlow_twins.build,
  'beit': beit.build,
  'bridge': bridge.build,
  'byol': byol.build,
  'colorization': colorization.build,
  'context_encoder': context_encoder.build,
  'counting': counting.build,
  'deepcluster': deepcluster.build,
  'deepcluster_v2': deepcluster_v2.build,
  'denoising_autoencoder': denoising_autoencoder.build,
  'depth': depth.build,
  'detection': detection.build,
  'dino': dino.build,
  'distillation': distillation.build,
  'dvae': dvae.build,
  'exemplar': exemplar.build,
  'fixmatch': fixmatch.build,
  'geometric': geometric.build,
  'image_gpt': image_gpt.build,
  'instance_discrimination': instance_discrimination.build,
  'interclr': interclr.build,
  'jigsaw': jigsaw.build,
  'linear_probe': linear_probe.build,
  'mae': mae.build,
  'masked_tokens': masked_tokens.build,
  'moco': moco.build,
  'moco_v3': moco_v3.build,
  'motion_segmentation': motion_segmentation.build,
  'nnclr': nnclr.build,
  'pixelcnn': pixelcnn.build,
  'pixelcnn_pp': pixelcnn_pp.build,
  'prior': prior.build,
  'relative_patch_location': relative_patch_location.build,
  'rotation': rotation.build,
  'segmentation': segmentation.build,
  'simclr': simclr.build,
  'simsiam': simsiam.build,
  'split_brain': split_brain.build,
  'supervised': supervised.build,
  'swav': swav.build,
  'triplet': triplet.build,
  'vicreg': vicreg.build,
  'vq_gan': vq_gan.build,
  'vq_vae': vq_vae.build,
  'w_mse': w_mse.build,
}

# Name -> (method, setting, weight, targets) -> the method with a task beside it.
AUXILIARIES: dict[str, Callable[..., Method]] = {
  'augmentation_prediction': augmentation_prediction.auxiliary,
}


def build_method(make_encoder: MakeEncoder, setting: Setting, fields: Mapping[str, Any]) -> Method:
  """Builds the method that the fields of a configuration describe.

  Args:
    make_encoder: see `method.MakeEncoder`.
    setting: the run.
    fields: 'name', or the import path of a builder (`byoljax.own`); its arguments; and, if a task
      is to learn beside it, 'auxiliary', the task's name, and its arguments 'auxiliary_weight' and
      'auxiliary_targets'.

  Raises:
    ValueError: an unknown name, a wrong argument, a number that is none, or a method that the task
      cannot be put beside.
  """
  _require_finite(fields)
  settings = {name: value for name, value in fields.items() if not name.startswith('auxiliary')}
  name = settings.pop('name')
  build = _builder(name)
  arguments = inspect.signature(build).parameters
  open_ended = any(each.kind is each.VAR_KEYWORD for each in arguments.values())
  for field in settings:
    if field not in list(arguments)[2:] and not open_ended:
      raise ValueError(unknown(f'argument of {name}', field, list(arguments)[2:]))
  method = build(make_encoder, setting, **settings)
  task = {name: fields[name] for name in fields if name.startswith('auxiliary')}
  name = task.pop('auxiliary', '')
  if not name:
    return method
  arguments = {field.removeprefix('auxiliary_'): value for field, value in task.items()}
  return chosen('auxiliary task', name, AUXILIARIES)(method, setting, **arguments)


def defaults_of(name: str) -> dict[str, Any]:
  """The arguments of a method's builder that a configuration can hold, with their defaults.

  Args:
    name: a key of METHODS, or the import path of a builder.

  Raises:
    ValueError: there is no such method.
  """
  arguments = list(inspect.signature(_builder(name)).parameters.values())[2:]
  return {each.name: each.default for each in arguments if _is_plain(each.default)}


def _is_plain(value: Any) -> bool:
  if isinstance(value, tuple):
    return all(map(_is_plain, value))
  return isinstance(value, int | str) or (isinstance(value, float) and math.isfinite(value))


def _builder(name: str) -> Callable[..., Method]:
  return own.find('method', name) if own.is_path(name) else chosen('method', name, METHODS)


def _require_finite(fields: Mapping[str, Any], of: str = '') -> None:
  """Raises ValueError for a number, at any depth, that is not finite: comparisons let NaN pass."""
  for name, value in fields.items():
    if isinstance(value, Mapping):
      _require_finite(value, f'{of}{name}.')
      continue
    for number in value if isinstance(value, tuple | list) else (value,):
      if isinstance(number, float) and not math.isfinite(number):
        raise ValueError(f'{of}{name}={value} must be finite: give a number.')


def chosen(kind: str, name: str, table: Mapping[str, Any]) -> Any:
  """The entry of a table.

  Raises:
    ValueError: there is none; the valid names are listed, and the closest.
  """
  check_name(kind, name, table)
  return table[name]


# It is given the other methods: none imports another.
METHODS['multi_task'] = functools.partial(multi_task.build, build_method)
