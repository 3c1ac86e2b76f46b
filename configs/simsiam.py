"""SimSiam (Chen and He 2020, arXiv 2011.10566).

    python -m byoljax.main --config=configs/simsiam.py

    :cifar10 :cifar10_small :imagenette :imagenet,100 :folder :npz    scales, see configs/scales.py
    ...,smoke     seconds, to see that it runs

Published results (theirs, not ours): ImageNet ResNet-50 linear top-1 68.1 % at 100 epochs, 71.3 %
at 800; CIFAR-10 ResNet-18 91.8 % at 800 epochs.
"""

from ml_collections import ConfigDict

from . import moco, scales

METHOD = {
  'name': 'simsiam',
  'projector': (2048, 2048, 2048),
  'predictor': (512, 2048),  # a bottleneck
  'stop_gradient': True,
  'head_init': 'fan_in',  # or 'torch'
}


def get_config(arg: str = '') -> ConfigDict:
  return scales.build(arg, METHOD, ADAPT)


def shapes(config: ConfigDict, epochs: int) -> None:
  """Small heads."""
  del epochs
  config.method.update(projector=(512, 512), predictor=(128, 512))
  config.optim.groups = {'predictor': {'schedule': 'constant'}}


def cifar10(config: ConfigDict, epochs: int) -> None:
  """The authors': a projector of two layers, no blur, batch 512."""
  del epochs
  config.method.update(projector=(2048, 2048), head_init='torch')
  config.train.batch_size = 512
  sgd(config, base_lr=0.03, weight_decay=5e-4)
  moco.views(config, blur_prob=0.0)
  scales.operators(config, 'torchvision', 'bilinear')


def cifar10_small(config: ConfigDict, epochs: int) -> None:
  """Small heads."""
  shapes(config, epochs)
  moco.views(config, blur_prob=0.0)


def imagenette(config: ConfigDict, epochs: int) -> None:
  """The paper's recipe at 128 px."""
  del epochs
  config.method.head_init = 'torch'
  sgd(config, base_lr=0.05, weight_decay=1e-4)
  moco.views(config)
  scales.operators(config, 'torchvision', 'bilinear')


def imagenet(config: ConfigDict, epochs: int) -> None:
  """As published, batch 512."""
  del epochs
  config.train.batch_size = 512
  config.method.head_init = 'torch'
  config.encoder.zero_init_residual = True
  sgd(config, base_lr=0.05, weight_decay=1e-4)
  moco.views(config)
  scales.operators(config, 'torchvision', 'bilinear')


def sgd(config: ConfigDict, base_lr: float, weight_decay: float) -> None:
  """SGD that decays all parameters, and a predictor whose learning rate stays."""
  scales.sgd(config, base_lr, weight_decay)
  config.optim.groups = {'predictor': {'schedule': 'constant'}}


ADAPT = {
  'shapes': shapes,
  'cifar10': cifar10,
  'cifar10_small': cifar10_small,
  'imagenette': imagenette,
  'imagenet': imagenet,
}
