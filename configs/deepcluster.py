"""DeepCluster (Caron et al. 2018, arXiv 1807.05520).

    python -m byoljax.main --config=configs/deepcluster.py

trains on the built-in shapes, minutes on a CPU. After a colon, a scale of `configs/scales.py`.

The paper's encoders are AlexNet and VGG-16 on edges (a Sobel filter); `:imagenet` is its schedule
and its number of clusters with a ResNet-50 on color, so its results are none to compare with.
"""

from ml_collections import ConfigDict

from . import scales

METHOD = {
  'name': 'deepcluster',
  'num_clusters': 10000,
  'pca_dim': 256,  # at most
  'iterations': 20,  # of k-means
}


def get_config(arg: str = '') -> ConfigDict:
  return scales.build(arg, METHOD, ADAPT, epochs={'imagenet': 200})


def shapes(config: ConfigDict, epochs: int) -> None:
  """Ten clusters per class; a top layer fast enough to be of use within an epoch of 125 steps."""
  del epochs
  scales.one_view(config)
  config.method.update(num_clusters=100, pca_dim=64)
  _plain_head(config, base_lr=2.0)


def cifar10(config: ConfigDict, epochs: int) -> None:
  """Ten clusters per class, the paper's optimizer."""
  del epochs
  scales.one_view(config)
  config.method.num_clusters = 100
  _sgd(config)


def cifar10_small(config: ConfigDict, epochs: int) -> None:
  """Ten clusters per class, the small encoder's optimizer."""
  del epochs
  scales.one_view(config)
  config.method.update(num_clusters=100, pca_dim=64)
  _plain_head(config, base_lr=2.0)


def imagenette(config: ConfigDict, epochs: int) -> None:
  """Ten clusters per class, the paper's optimizer."""
  del epochs
  scales.one_view(config)
  config.method.num_clusters = 100
  _sgd(config)


def imagenet(config: ConfigDict, epochs: int) -> None:
  """The paper's clusters and optimizer."""
  del epochs
  config.train.batch_size = 256
  scales.one_view(config)
  plain = {'jitter_prob': 0.0, 'gray_prob': 0.0, 'blur_prob': 0.0}  # crops and flips alone
  config.views.view1.update(plain | {'operators': 'torchvision', 'resize': 'bilinear'})
  _sgd(config)


def smoke(config: ConfigDict, epochs: int) -> None:
  """Few clusters."""
  del epochs
  config.method.num_clusters = 20


def _sgd(config: ConfigDict) -> None:
  """A constant rate for all parameters, the top layer without momentum."""
  scales.sgd(config, 0.05, weight_decay=1e-5, schedule='constant', lr_update='step')
  _plain_head(config, base_lr=0.05)


def _plain_head(config: ConfigDict, *, base_lr: float) -> None:
  """The top layer starts anew every epoch: a momentum of the old one would be noise."""
  config.optim.groups = ConfigDict(
    {
      'head': {
        'name': 'sgd',
        'momentum': 0.0,
        'base_lr': base_lr,
        'schedule': 'constant',
        'weight_decay': 1e-5,
      }
    }
  )


ADAPT = {
  'shapes': shapes,
  'cifar10': cifar10,
  'cifar10_small': cifar10_small,
  'imagenette': imagenette,
  'imagenet': imagenet,
  'smoke': smoke,
}
