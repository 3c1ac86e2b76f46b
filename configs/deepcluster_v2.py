"""DeepCluster-v2 (Caron et al. 2020, in the appendix of SwAV, arXiv 2006.09882).

    python -m byoljax.main --config=configs/deepcluster_v2.py

trains on the built-in shapes, minutes on a CPU. After a colon, a scale of `configs/scales.py`;
`:imagenet,800` is the published setting, two crops of 224 and six of 96 pixels.

Published results (theirs, not ours): ImageNet ResNet-50 linear top-1 75.2 % at 800 epochs; 70.2 %
at 400 epochs with two crops only; CIFAR-10 ResNet-18 88.85 % (solo-learn, 1000 epochs, online
classifier).
"""

from ml_collections import ConfigDict

from . import scales, simclr

METHOD = {
  'name': 'deepcluster_v2',
  'projector': (2048, 128),
  'prototypes': (3000, 3000, 3000),  # clusters of each clustering
  'temperature': 0.1,
  'iterations': 10,  # of k-means
  'head_init': 'fan_in',  # or 'torch'
}


def get_config(arg: str = '') -> ConfigDict:
  return scales.build(arg, METHOD, ADAPT, epochs={'imagenet': 800})


def shapes(config: ConfigDict, epochs: int) -> None:
  """Three clusters per class, a small head."""
  del epochs
  config.method.update(projector=(512, 128), prototypes=(30, 30, 30))


def cifar10(config: ConfigDict, epochs: int) -> None:
  """The script behind solo-learn's published 88.85 %; its present one blurs."""
  del epochs
  config.method.head_init = 'torch'
  config.optim.update(
    base_lr=0.6, weight_decay=1e-6, min_lr=6e-4, warmup='11 epochs', exclude_bias_and_norm=False
  )
  simclr.color(config, blur_prob=0.0)


def imagenette(config: ConfigDict, epochs: int) -> None:
  """Thirty clusters per class, the rate of SwAV's small batches."""
  del epochs
  config.method.prototypes = (300, 300, 300)
  config.optim.update(name='larc', base_lr=0.6, end_lr=0.001, exclude_bias_and_norm=False)
  scales.operators(config, 'torchvision', 'bilinear')


def imagenet(config: ConfigDict, epochs: int) -> None:
  """As published: multi-crop, apex LARC on all parameters."""
  del epochs
  config.method.head_init = 'torch'
  config.data.std = (0.228, 0.224, 0.225)  # as their code has it
  simclr.color(config, crop_scale=(0.14, 1.0))
  scales.operators(config, 'torchvision', 'bilinear')
  scales.small_crops(config, 6, 96, (0.05, 0.14))
  config.optim.update(
    name='larc',
    base_lr=0.3,
    start_lr=0.0625,
    end_lr=0.001,
    weight_decay=1e-6,
    exclude_bias_and_norm=False,
  )


def smoke(config: ConfigDict, epochs: int) -> None:
  """Few clusters."""
  del epochs
  config.method.update(projector=(64, 32), prototypes=(20, 20))


ADAPT = {
  'shapes': shapes,
  'cifar10': cifar10,
  'cifar10_small': shapes,
  'imagenette': imagenette,
  'imagenet': imagenet,
  'smoke': smoke,
}
