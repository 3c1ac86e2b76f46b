"""VICReg (Bardes, Ponce and LeCun 2021, arXiv 2105.04906).

    python -m byoljax.main --config=configs/vicreg.py

    :cifar10 :cifar10_small :imagenette :imagenet,100 :folder :npz    scales, see configs/scales.py
    ...,paper     the paper's reading where it differs from the code: both variance terms added, and
                  the same settings for both views
    ...,smoke     seconds, to see that it runs

Published results (theirs, not ours): ImageNet ResNet-50 linear top-1 68.6 % at 100 epochs, 73.2 %
at 1000; CIFAR-10 ResNet-18 92.07 % (solo-learn, 1000 epochs, online classifier).
"""

from ml_collections import ConfigDict

from . import scales

METHOD = {
  'name': 'vicreg',
  'projector': (8192, 8192, 8192),
  'invariance': 25.0,
  'variance': 25.0,
  'covariance': 1.0,
  'halved_variance': True,
  'head_init': 'fan_in',  # or 'torch'
}


def get_config(arg: str = '') -> ConfigDict:
  return scales.build(arg, METHOD, ADAPT, variants={'paper': paper})


def shapes(config: ConfigDict, epochs: int) -> None:
  """A narrower expander."""
  del epochs
  config.method.projector = (512, 512, 512)


def cifar10(config: ConfigDict, epochs: int) -> None:
  """solo-learn's recipe, which adds the variance terms of both views."""
  del epochs
  config.method.update(projector=(2048, 2048, 2048), halved_variance=False, head_init='torch')
  config.optim.update(base_lr=0.3, weight_decay=1e-4)
  scales.alike(config, crop_scale=(0.2, 1.0), solarize_prob=0.1)


def imagenette(config: ConfigDict, epochs: int) -> None:
  """The authors' rate for batch 256."""
  del epochs
  config.method.update(projector=(2048, 2048, 2048), head_init='torch')
  config.optim.update(base_lr=0.5, weight_decay=1e-6, end_lr=1e-3)
  scales.operators(config, 'torchvision')


def imagenet(config: ConfigDict, epochs: int) -> None:
  """As in the authors' code, batch 2048; of batch 512 and 100 epochs their rate is .3."""
  del epochs
  config.train.batch_size = 2048
  config.method.head_init = 'torch'
  config.encoder.zero_init_residual = True
  config.optim.update(base_lr=0.2, weight_decay=1e-6, end_lr=1e-3)
  scales.operators(config, 'torchvision')


def paper(config: ConfigDict) -> None:
  """What the paper says and the code does not do."""
  config.method.halved_variance = False
  scales.alike(config, blur_prob=config.views.view1.blur_prob / 2, solarize_prob=0.1)


ADAPT = {
  'shapes': shapes,
  'cifar10': cifar10,
  'cifar10_small': shapes,
  'imagenette': imagenette,
  'imagenet': imagenet,
}
