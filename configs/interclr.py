"""InterCLR on MoCo v2 (Xie et al. 2020, arXiv 2008.11702).

    python -m byoljax.main --config=configs/interclr.py

trains on the built-in shapes, minutes on a CPU. After a colon, a scale of `configs/scales.py`;
`:imagenet` is the published setting, ResNet-50, batch 256, 200 epochs.

Published result (theirs, not ours): ImageNet ResNet-50 linear top-1 68.04 % at 200 epochs.
"""

from ml_collections import ConfigDict

from . import moco, scales

METHOD = {
  'name': 'interclr',
  'projector': (2048, 128),
  'temperature': 0.2,
  'tau': 0.999,  # weight of the old key network
  'queue_size': 65536,
  'bn_groups': 8,  # parts of the batch with statistics of their own
  'num_clusters': 10000,
  'sampling': 'semihard',  # or 'random', 'semieasy', 'hard'
  'pool_size': 0,  # 0 = a tenth of the images
  'num_negatives': 0,  # between images; 0 = an eighth of the pool, at most 16384
  'margin': -0.5,
  'intra_weight': 0.75,
  'inter_weight': 0.25,
  'warmup': '0 epochs',  # of MoCo alone
  'centroid_every': 10,  # steps
  'min_cluster_size': 20,
  'repair_every': '500 steps',
  'head_init': 'fan_in',  # or 'torch'
}


def get_config(arg: str = '') -> ConfigDict:
  return scales.build(arg, METHOD, ADAPT, epochs={'imagenet': 200})


def shapes(config: ConfigDict, epochs: int) -> None:
  """Ten clusters per class, a small head, MoCo's queue and key network, MoCo alone at first.

  Views differ so much in color that the clusters of an untrained encoder mean nothing.
  """
  del epochs
  config.method.update(projector=(512, 128), queue_size=1024, tau=0.996, bn_groups=2)
  config.method.update(num_clusters=100, repair_every='1 epochs', warmup='60 %')


def cifar10(config: ConfigDict, epochs: int) -> None:
  """MoCo's CIFAR-10 setting with ten clusters per class."""
  del epochs
  moco.views(config, blur_prob=0.0)
  _like_pytorch(config)
  config.method.update(queue_size=4096, tau=0.99, temperature=0.1, num_clusters=100)
  scales.sgd(config, base_lr=0.03, weight_decay=5e-4)


def cifar10_small(config: ConfigDict, epochs: int) -> None:
  """The same with a small head, the small encoder and its optimizer."""
  del epochs
  moco.views(config, blur_prob=0.0)
  config.method.update(projector=(512, 128), queue_size=4096, tau=0.99, num_clusters=100)


def imagenette(config: ConfigDict, epochs: int) -> None:
  """Ten clusters per class, a queue of less than half of the images."""
  del epochs
  moco.views(config)
  _like_pytorch(config)
  config.method.update(queue_size=4096, tau=0.99, num_clusters=100)
  scales.sgd(config, base_lr=0.03, weight_decay=5e-4)


def imagenet(config: ConfigDict, epochs: int) -> None:
  """As published."""
  del epochs
  config.train.batch_size = 256
  moco.views(config)
  _like_pytorch(config)
  config.method.update(pool_size=128000, num_negatives=16384)
  scales.sgd(config, base_lr=0.03, weight_decay=1e-4)


def smoke(config: ConfigDict, epochs: int) -> None:
  """Few clusters, a short queue."""
  del epochs
  config.method.update(projector=(64, 32), queue_size=64, num_clusters=20, bn_groups=0)
  config.method.update(pool_size=0, num_negatives=16, repair_every='3 steps')


def _like_pytorch(config: ConfigDict) -> None:
  config.method.head_init = 'torch'
  scales.operators(config, 'torchvision', 'bilinear')


ADAPT = {
  'shapes': shapes,
  'cifar10': cifar10,
  'cifar10_small': cifar10_small,
  'imagenette': imagenette,
  'imagenet': imagenet,
  'smoke': smoke,
}
