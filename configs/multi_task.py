"""Several methods at once on one encoder (Doersch and Zisserman 2017, arXiv 1708.07860).

    python -m byoljax.main --config=configs/multi_task.py

trains the paper's four tasks on the built-in moving scenes, `sprites`: relative patch location,
colorization, exemplar and motion segmentation. At other scales there are three of them: their
images do not move. After a colon, a scale of `configs/scales.py`, then any methods of `RECIPES` in
their place, and

    harmonized      the paper's input harmonization: the lightness alone for all tasks
    lasso           what each task reads is a sparse sum of the encoder's maps

    python -m byoljax.main --config=configs/multi_task.py:shapes,rotation,simclr

Every part has the views and the fields of its own recipe at that scale, and a weight:
`--config.method.parts.rotation.weight=0.5`. The optimizer is the scale's.

Published results (theirs, not ours): ImageNet, ResNet-101, top-5 of linear classifiers: relative
position 59.2, colorization 62.5, exemplar 53.1, motion segmentation 27.6, all four 69.3 %.
"""

from ml_collections import ConfigDict

from . import (
  augmentation_prediction,
  barlow_twins,
  base,
  byol,
  colorization,
  counting,
  exemplar,
  geometric,
  jigsaw,
  moco,
  motion_segmentation,
  relative_patch_location,
  rotation,
  scales,
  simclr,
  simsiam,
  vicreg,
)

RECIPES = {
  'augmentation_prediction': augmentation_prediction,
  'barlow_twins': barlow_twins,
  'byol': byol,
  'colorization': colorization,
  'counting': counting,
  'exemplar': exemplar,
  'geometric': geometric,
  'jigsaw': jigsaw,
  'moco': moco,
  'motion_segmentation': motion_segmentation,
  'relative_patch_location': relative_patch_location,
  'rotation': rotation,
  'simclr': simclr,
  'simsiam': simsiam,
  'vicreg': vicreg,
}
PAPER = ('colorization', 'exemplar', 'motion_segmentation', 'relative_patch_location')
MOVING = 'sprites'  # The set that knows what moves.


def get_config(arg: str = '') -> ConfigDict:
  options = [option for option in arg.split(',') if option]
  rest = ','.join(option for option in options if option not in (*RECIPES, *VARIANTS))
  # Known by name, so that a message about an unknown option lists them.
  known = dict.fromkeys((*RECIPES, *VARIANTS), lambda config: None)
  config = scales.build(rest, METHOD, {}, variants=known)
  config.views = ConfigDict()
  count = 0
  for name in sorted({option for option in options if option in RECIPES} or _paper(rest)):
    own = RECIPES[name].get_config(rest)
    first = count + 1
    for view in sorted(own.views, key=lambda view: (len(view), view)):
      config.views[f'view{len(config.views) + 1}'] = own.views[view]
      count += own.views[view].get('repeat', 1)
    fields = {field: own.method[field] for field in own.method if field not in base.AUXILIARY}
    part = {'weight': 1.0, 'views': tuple(range(first, count + 1))} | fields
    config.method.parts[name] = ConfigDict(part)
    if own.data.fields:
      config.data.update(name=own.data.name, fields=own.data.fields)
  for option in options:
    if option in VARIANTS:
      VARIANTS[option](config)
  return config


def _paper(rest: str) -> tuple[str, ...]:
  """The paper's tasks, as far as the images of the scale allow them."""
  moving = motion_segmentation.get_config(rest).data.name == MOVING
  return PAPER if moving else tuple(name for name in PAPER if name != 'motion_segmentation')


def harmonized(config: ConfigDict) -> None:
  """Lightness for all; what parts do to colors gives way to it."""
  config.encoder.input = 'lightness'
  for part in config.method.parts.values():
    for fields in (part, part.get('tiles', {})):
      if 'standardize' in fields:
        fields.standardize = 'none'  # Lightness is one of pixels.
      for field in ('gray_prob', 'project_prob', 'drop_prob', 'channel_shift'):
        if field in fields:
          fields[field] = type(fields[field])(0)


def lasso(config: ConfigDict) -> None:
  """A penalty of ours."""
  config.method.lasso = 0.1


VARIANTS = {'harmonized': harmonized, 'lasso': lasso}
METHOD = {
  'name': 'multi_task',
  'parts': {},
  'lasso': 0.0,  # times the sum of the weights with which tasks read maps; 0 = the embedding alone
  'lasso_taps': (),  # which of the encoder's maps; () = all
}
