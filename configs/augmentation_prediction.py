"""Augmentation prediction alone (AugSelf's task, Lee et al. 2021, arXiv 2111.09613).

    python -m byoljax.main --config=configs/augmentation_prediction.py

trains on the built-in shapes, minutes on a CPU: by what do the augmentations of two views of an
image differ? After the colon, a scale of `configs/scales.py`. In the paper it stands beside another
method, which any joint-embedding recipe can do:

    python -m byoljax.main --config=configs/simsiam.py \\
      --config.method.auxiliary=augmentation_prediction

No result is quoted: the published ones are of the task beside another method.
"""

from ml_collections import ConfigDict

from . import scales

METHOD = {
  'name': 'augmentation_prediction',
  'targets': ('crop', 'color'),  # or 'flip', 'gray', 'blur', 'solarize'
  'hidden': (512, 512),  # widths of the heads' hidden layers
}


def get_config(arg: str = '') -> ConfigDict:
  return scales.build(arg, METHOD, ADAPT)


def shapes(config: ConfigDict, epochs: int) -> None:
  """Color that can be guessed, and whole images' pixels; ours."""
  cifar10_small(config, epochs)
  scales.alike(config, size=32, crop_scale=(0.3, 1.0))


def cifar10_small(config: ConfigDict, epochs: int) -> None:
  """Color that can be guessed: the jitter of photographs, never gray; ours."""
  del epochs
  scales.alike(config, saturation=0.4, hue=0.1, gray_prob=0.0)


def cifar10(config: ConfigDict, epochs: int) -> None:
  """Crops as in the paper; plain SGD, ours."""
  del epochs
  scales.alike(config, crop_scale=(0.2, 1.0), saturation=0.4)
  config.optim.update(name='sgd', base_lr=0.03, weight_decay=5e-4, warmup='0 epochs')


def smoke(config: ConfigDict, epochs: int) -> None:
  """Narrower heads."""
  del epochs
  config.method.hidden = (32, 32)


ADAPT = {
  'shapes': shapes,
  'cifar10': cifar10,
  'cifar10_small': cifar10_small,
  'imagenette': cifar10,
  'imagenet': cifar10,
  'smoke': smoke,
}
