"""Barlow Twins (Zbontar et al. 2021, arXiv 2103.03230).

    python -m byoljax.main --config=configs/barlow_twins.py

    :cifar10 :cifar10_small :imagenette :imagenet,300 :folder :npz    scales, see configs/scales.py
    ...,smoke     seconds, to see that it runs

Published results (theirs, not ours): ImageNet ResNet-50 linear top-1 71.4 % at 300 epochs, 73.2 %
at 1000; CIFAR-10 ResNet-18 92.10 % (solo-learn, 1000 epochs, online classifier).
"""

from ml_collections import ConfigDict

from . import scales

METHOD = {
  'name': 'barlow_twins',
  'projector': (8192, 8192, 8192),
  'off_diagonal': 0.0051,
  'loss_scale': 1.0,
  'head_init': 'fan_in',  # or 'torch'
}


def get_config(arg: str = '') -> ConfigDict:
  return scales.build(arg, METHOD, ADAPT, epochs={'imagenet': 300})


def shapes(config: ConfigDict, epochs: int) -> None:
  """A narrower projector, whose off-diagonal terms weigh more each."""
  del epochs
  config.method.update(projector=(512, 128), off_diagonal=0.01, loss_scale=0.1)
  config.optim.base_lr = 2e-2


def cifar10(config: ConfigDict, epochs: int) -> None:
  """solo-learn's recipe."""
  del epochs
  config.method.update(projector=(2048, 2048, 2048), loss_scale=0.1, head_init='torch')
  config.optim.update(base_lr=0.3, weight_decay=1e-4)


def cifar10_small(config: ConfigDict, epochs: int) -> None:
  """The shapes' projector."""
  del epochs
  config.method.update(projector=(512, 128), off_diagonal=0.01, loss_scale=0.1)


def imagenette(config: ConfigDict, epochs: int) -> None:
  """The paper's recipe for batch 256 at 128 px."""
  del epochs
  config.method.update(projector=(2048, 2048, 2048), head_init='torch')
  lars(config, base_lr=0.4)
  scales.operators(config, 'torchvision')


def imagenet(config: ConfigDict, epochs: int) -> None:
  """As in the authors' code, batch 2048.

  Their bias rate, .0048, belongs to gradients that their code divides by the number of GPUs; see
  byoljax/methods/joint_embedding/barlow_twins.py. It is divided by 16 here, the fewest
  that they name.
  """
  del epochs
  config.train.batch_size = 2048
  config.method.head_init = 'torch'
  config.encoder.zero_init_residual = True
  lars(config, base_lr=0.2)
  scales.operators(config, 'torchvision')


def lars(config: ConfigDict, base_lr: float) -> None:
  """LARS with a lower rate where it does not adapt; the cosine ends at a thousandth."""
  config.optim.update(base_lr=base_lr, weight_decay=1e-6, end_lr=1e-3)
  config.optim.groups = {'bias_and_norm': {'base_lr': 0.0048 / 16}}


ADAPT = {
  'shapes': shapes,
  'cifar10': cifar10,
  'cifar10_small': cifar10_small,
  'imagenette': imagenette,
  'imagenet': imagenet,
}
