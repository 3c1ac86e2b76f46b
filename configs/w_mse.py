"""W-MSE (Ermolov et al. 2020, arXiv 2007.06346).

    python -m byoljax.main --config=configs/w_mse.py

    :cifar10 :cifar10_small :imagenette :folder :npz    scales, see configs/scales.py
    ...,smoke     seconds, to see that it runs

Published results (theirs, not ours): CIFAR-10 ResNet-18 91.55 % linear top-1 (two views, 1000
epochs).
"""

from ml_collections import ConfigDict

from . import scales

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
  """The authors' with two views; AdamW for Adam."""
  del epochs
  config.train.batch_size = 512
  config.data.std = (0.2023, 0.1994, 0.201)
  config.method.update(joint_head=True, whiten_size=128, head_init='torch')
  config.optim.update(
    name='adamw', base_lr=3e-3, lr_scaling='none', weight_decay=1e-6, warmup='500 steps',
    schedule='step', decay_at=(0.95, 0.975), decay_factor=0.2, exclude_bias_and_norm=False,
  )  # fmt: skip
  scales.alike(config, crop_scale=(0.2, 1.0), saturation=0.4, hue=0.1, gray_prob=0.1)


def cifar10_small(config: ConfigDict, epochs: int) -> None:
  """A small head."""
  del epochs
  config.method.projector = (512, 64)


def imagenette(config: ConfigDict, epochs: int) -> None:
  """CIFAR-10's optimizer at 128 px."""
  del epochs
  config.optim.update(name='adamw', base_lr=2e-3, weight_decay=1e-6)
  scales.operators(config, 'torchvision')


def smoke(config: ConfigDict, epochs: int) -> None:
  """Fewer dimensions than a small batch has images."""
  del epochs
  config.method.update(projector=(*config.method.projector[:-1], 0), whiten_size=0)


ADAPT = {
  'shapes': shapes,
  'cifar10': cifar10,
  'cifar10_small': cifar10_small,
  'imagenette': imagenette,
  'smoke': smoke,
}
