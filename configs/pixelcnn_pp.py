"""PixelCNN++ (Salimans et al. 2017, arXiv 1701.05517).

    python -m byoljax.main --config=configs/pixelcnn_pp.py

trains on the built-in shapes at 16 px, minutes on a CPU: a small network of two resolutions. After
a colon, a scale of `configs/scales.py`. `byoljax sample RUN` draws new images. At `cifar10` the
network is the paper's.

Published results (theirs, not ours): CIFAR-10, test, 2.92 bits per dimension.
"""

from ml_collections import ConfigDict

from . import scales

METHOD = {
  'name': 'pixelcnn_pp',
  'levels': 256,  # values of a number; fewer are sooner learned
  'mixtures': 10,  # logistics of a pixel
  'dropout': True,  # half of the activations in blocks
  'average': 0.0,  # decay of an average of the weights for samples and likelihoods; 0 = none
}


def get_config(arg: str = '') -> ConfigDict:
  return scales.build(arg, METHOD, ADAPT, epochs={'shapes': 8, 'cifar10': 500})


def shapes(config: ConfigDict, epochs: int) -> None:
  """A small network on small images, which nothing needs to be dropped from; ours."""
  del epochs
  scales.whole_images(config, 16)
  config.encoder.name = 'pixelcnn_pp_micro'
  config.method.update(levels=32, mixtures=5, dropout=False)
  config.optim.update(base_lr=8e-3, weight_decay=0.0)


def cifar10(config: ConfigDict, epochs: int) -> None:
  """The paper's network, batch, rate and averages; a cosine in place of its slow decay."""
  del epochs
  scales.whole_images(config, 32)
  config.train.batch_size = 96
  config.encoder.update(name='pixelcnn_pp', weight_norm=True)
  config.method.average = 0.9995
  config.optim.update(
    name='adamw', base_lr=1e-3, lr_scaling='none', weight_decay=0.0, trust_coefficient=0.001,
    momentum=0.95, b2=0.9995,
  )  # fmt: skip


def cifar10_small(config: ConfigDict, epochs: int) -> None:
  """As the shapes, at 32 px."""
  shapes(config, epochs)
  scales.whole_images(config, 32)


def smoke(config: ConfigDict, epochs: int) -> None:
  """The smallest network, on small images."""
  shapes(config, epochs)


ADAPT = {
  'shapes': shapes,
  'cifar10': cifar10,
  'cifar10_small': cifar10_small,
  'imagenette': cifar10,
  'imagenet': cifar10,
  'smoke': smoke,
}
