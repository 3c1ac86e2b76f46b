"""W-MSE (Ermolov et al. 2020, arXiv 2007.06346).

    python -m byoljax.main --config=configs/w_mse.py

    :cifar10 :cifar10_small :imagenette :folder :npz    scales, see configs/scales.py
    ...,smoke     seconds, to see that it runs

Published results (theirs, not ours): CIFAR-10 ResNet-18 91.55 % linear top-1 (two views, 1000
epochs).
"""

from ml_collections import ConfigDict

from configs import scales

METHOD = {
  'name': 'w_mse',
  'projector': (1024, 64),  # hidden, output; an output of 0 is half the batch
  'joint_head': False,  # whether the head's normalization sees both views together
  'whiten_size': 0,  # images that are whitened together; 0 = the batch
  'whiten_draws': 1,  # random divisions into such parts that are averaged
  'head_init': 'fan_in',  # or 'torch'
}


def get_config(arg: str = '') -> ConfigDict:
  return scales.build(arg, METHOD, ADAPT)


def shapes(config: ConfigDict, epochs: int) -> None:
  """Half as many dimensions as the batch has images."""
  del epochs
  config.method.projector = (512, 0)


def cifar10(config: ConfigDict, epochs: int) -> None:
  """solo-learn's recipe, with AdamW for its Adam."""
  del epochs
  config.optim.update(name='adamw', base_lr=2e-3, weight_decay=1e-6)
  strong = {'brightness': 0.8, 'contrast': 0.8, 'saturation': 0.8, 'hue': 0.2}
  scales.alike(config, crop_scale=(0.2, 1.0), **strong)


def cifar10_small(config: ConfigDict, epochs: int) -> None:
  """A small head."""
  del epochs
  config.method.projector = (512, 64)


def imagenette(config: ConfigDict, epochs: int) -> None:
  """CIFAR-10's optimizer at 128 px."""
  del epochs
  config.optim.update(name='adamw', base_lr=2e-3, weight_decay=1e-6)


def smoke(config: ConfigDict, epochs: int) -> None:
  """Fewer dimensions than a small batch has images."""
  del epochs
  config.method.projector = (*config.method.projector[:-1], 0)


ADAPT = {
  'shapes': shapes,
  'cifar10': cifar10,
  'cifar10_small': cifar10_small,
  'imagenette': imagenette,
  'smoke': smoke,
}
