"""Several methods at once on one encoder (Doersch and Zisserman 2017, arXiv 1708.07860).

    python -m byoljax.main --config=configs/multi_task.py

trains two of the paper's four tasks, exemplar and relative patch location, on the built-in shapes;
colorization and motion segmentation are not there. After a colon, a scale of `configs/scales.py`,
then any methods of `RECIPES` in their place, and

    harmonized      gray images for all tasks, as the paper's input harmonization

    python -m byoljax.main --config=configs/multi_task.py:shapes,rotation,simclr

Every part has the views and the fields of its own recipe at that scale, and a weight:
`--config.method.parts.rotation.weight=0.5`. The optimizer is the scale's.

Published results (theirs, not ours): ImageNet, ResNet-101, top-5 of linear classifiers: relative
position 59.2, exemplar 53.1, all four tasks 69.3 %.
"""

from ml_collections import ConfigDict

from . import (
  augmentation_prediction,
  barlow_twins,
  base,
  byol,
  counting,
  exemplar,
  geometric,
  jigsaw,
  moco,
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
  'counting': counting,
  'exemplar': exemplar,
  'geometric': geometric,
  'jigsaw': jigsaw,
  'moco': moco,
  'relative_patch_location': relative_patch_location,
  'rotation': rotation,
  'simclr': simclr,
  'simsiam': simsiam,
  'vicreg': vicreg,
}
PAPER = ('exemplar', 'relative_patch_location')


def get_config(arg: str = '') -> ConfigDict:
  options = [option for option in arg.split(',') if option]
  names = [option for option in options if option in RECIPES] or PAPER
  rest = [option for option in options if option not in (*RECIPES, 'harmonized')]
  # Known by name, so that a message about an unknown option lists them.
  known = dict.fromkeys((*RECIPES, 'harmonized'), lambda config: None)
  config = scales.build(','.join(rest), {'name': 'multi_task'}, {}, variants=known)
  config.views = ConfigDict()
  parts, count = {}, 0
  for name in sorted(names):
    own = RECIPES[name].get_config(','.join(rest))
    first = count + 1
    for view in sorted(own.views, key=lambda view: (len(view), view)):
      config.views[f'view{len(config.views) + 1}'] = own.views[view]
      count += own.views[view].get('repeat', 1)
    fields = {field: own.method[field] for field in own.method if field not in base.AUXILIARY}
    parts[name] = {'weight': 1.0, 'views': tuple(range(first, count + 1))} | fields
  config.method = ConfigDict({'name': 'multi_task', 'parts': parts})
  if 'harmonized' in options:
    config.encoder.input = 'gray'
  return config
