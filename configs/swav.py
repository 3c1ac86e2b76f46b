"""SwAV (Caron et al. 2020, arXiv 2006.09882).

    python -m byoljax.main --config=configs/swav.py

    :cifar10 :cifar10_small :imagenette :imagenet,100 :folder :npz    scales, see configs/scales.py
    ...,two       two large crops only
    ...,smoke     seconds, to see that it runs

Published results (theirs, not ours): ImageNet ResNet-50 linear top-1 72.1 / 73.9 / 75.3 % at 100 /
200 / 800 epochs with 2 x 224 + 6 x 96 px; CIFAR-10 ResNet-18 89.17 % (solo-learn, 1000 epochs, two
crops, online classifier).
"""

from ml_collections import ConfigDict

from . import scales, simclr

METHOD = {
  'name': 'swav',
  'projector': (2048, 128),
  'prototypes': 3000,
  'temperature': 0.1,
  'epsilon': 0.05,
  'iterations': 3,
  'freeze': '1 epochs',  # before the prototypes are trained
  'queue_size': 0,  # rows per large crop; 0 = none
  'queue_from': '15 epochs',
  'head_init': 'fan_in',  # or 'torch'
}


def get_config(arg: str = '') -> ConfigDict:
  return scales.build(arg, METHOD, ADAPT, variants={'two': two})


def shapes(config: ConfigDict, epochs: int) -> None:
  """Small heads, few prototypes, sharper codes, four small crops beside the large ones.

  With the paper's epsilon of .05 the loss stayed at log 60 for 8 epochs.
  """
  del epochs
  config.method.update(projector=(512, 128), prototypes=60, epsilon=0.03)
  scales.small_crops(config, 4, 20, (0.1, 0.3))


def cifar10(config: ConfigDict, epochs: int) -> None:
  """The script behind solo-learn's published 89.17 %: two crops, a queue; its present one blurs."""
  del epochs
  config.method.update(freeze='2 epochs', queue_size=3840, queue_from='50 epochs')
  config.method.head_init = 'torch'
  config.optim.update(base_lr=0.6, weight_decay=1e-6, min_lr=6e-4, exclude_bias_and_norm=False)
  simclr.color(config, blur_prob=0.0)


def cifar10_small(config: ConfigDict, epochs: int) -> None:
  """Small heads, fewer prototypes, four small crops."""
  del epochs
  config.method.update(projector=(512, 128), prototypes=300)
  simclr.color(config, blur_prob=0.0)
  scales.small_crops(config, 4, 0, (0.05, 0.2), size_share=0.625)


def imagenette(config: ConfigDict, epochs: int) -> None:
  """The paper's recipe for small batches at 128 px."""
  del epochs
  config.method.update(prototypes=300, freeze='30 epochs', queue_size=3840)
  lars(config, base_lr=0.6, start_lr=0.0, warmup='0 epochs')
  simclr.color(config)
  scales.operators(config, 'torchvision', 'bilinear')
  scales.small_crops(config, 6, 64, (0.05, 0.14))
  config.views.view1.crop_scale = config.views.view2.crop_scale = (0.14, 1.0)


def imagenet(config: ConfigDict, epochs: int) -> None:
  """As published: batch 4096, 2 x 224 + 6 x 96 px."""
  del epochs
  lars(config, base_lr=4.8, start_lr=0.3 / 4.8, warmup='10 epochs')
  config.method.head_init = 'torch'
  config.data.std = (0.228, 0.224, 0.225)  # as their code has it
  simclr.color(config)
  scales.operators(config, 'torchvision', 'bilinear')
  scales.small_crops(config, 6, 96, (0.05, 0.14))
  config.views.view1.crop_scale = config.views.view2.crop_scale = (0.14, 1.0)


def lars(config: ConfigDict, base_lr: float, start_lr: float, warmup: str) -> None:
  """The form of LARS that apex wraps around SGD, on all parameters; the rate is not scaled."""
  config.optim.update(
    name='larc',
    base_lr=base_lr,
    lr_scaling='none',
    start_lr=start_lr,
    warmup=warmup,
    end_lr=1e-3,
    weight_decay=1e-6,
    exclude_bias_and_norm=False,
  )


def two(config: ConfigDict) -> None:
  """No small crops."""
  if 'view3' in config.views:
    del config.views.view3


ADAPT = {
  'shapes': shapes,
  'cifar10': cifar10,
  'cifar10_small': cifar10_small,
  'imagenette': imagenette,
  'imagenet': imagenet,
}
