"""NNCLR (Dwibedi et al. 2021, arXiv 2104.14548).

    python -m byoljax.main --config=configs/nnclr.py

trains on the built-in shapes, minutes on a CPU. After a colon, a scale of `configs/scales.py`;
`:imagenet,1000` has the paper's heads, queue and temperature, with BYOL's views and optimizer.

Published results (theirs, not ours): ImageNet ResNet-50 linear top-1 75.6 % with multi-crop;
CIFAR-10 ResNet-18 91.88 % (solo-learn, 1000 epochs, online classifier).
"""

from ml_collections import ConfigDict

from . import scales

METHOD = {
  'name': 'nnclr',
  'projector': (2048, 2048, 256),
  'predictor': (4096, 256),
  'queue_size': 98304,  # smaller than an epoch, or images find themselves
  'temperature': 0.1,
}


def get_config(arg: str = '') -> ConfigDict:
  return scales.build(arg, METHOD, ADAPT, epochs={'imagenet': 1000})


def shapes(config: ConfigDict, epochs: int) -> None:
  """Small heads, and a queue of a quarter of the 8000 images."""
  del epochs
  config.method.update(projector=(512, 512, 128), predictor=(512, 128), queue_size=2048)


def cifar10(config: ConfigDict, epochs: int) -> None:
  """solo-learn's recipe; its queue is larger than the 50,000 images."""
  del epochs
  config.method.update(queue_size=65536, temperature=0.2)
  config.optim.update(base_lr=0.4, weight_decay=1e-5)


def cifar10_small(config: ConfigDict, epochs: int) -> None:
  """Small heads."""
  del epochs
  config.method.update(projector=(512, 512, 128), predictor=(512, 128), queue_size=16384)


def imagenette(config: ConfigDict, epochs: int) -> None:
  """A queue of less than half of the 9469 images."""
  del epochs
  config.method.queue_size = 4096
  config.optim.base_lr = 0.3


def imagenet(config: ConfigDict, epochs: int) -> None:
  """BYOL's rate and weight decay of 300 epochs."""
  del epochs
  config.optim.update(base_lr=0.3, weight_decay=1e-6)


def smoke(config: ConfigDict, epochs: int) -> None:
  """Small heads and a short queue."""
  del epochs
  config.method.update(projector=(64, 64, 32), predictor=(64, 32), queue_size=64)


ADAPT = {
  'shapes': shapes,
  'cifar10': cifar10,
  'cifar10_small': cifar10_small,
  'imagenette': imagenette,
  'imagenet': imagenet,
  'smoke': smoke,
}
