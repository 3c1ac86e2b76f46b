"""PixelCNN (van den Oord et al. 2016, arXiv 1601.06759; gated: arXiv 1606.05328).

    python -m byoljax.main --config=configs/pixelcnn.py

trains on the built-in shapes at 16 px with 32 values a color, minutes on a CPU. After a colon, a
scale of `configs/scales.py`, and

    ...,gated     the gated form of the second paper, without a blind spot

`byoljax sample RUN` draws new images. At `cifar10` the networks are the papers'.

Published results (theirs, not ours): CIFAR-10, test, bits per dimension: PixelCNN 3.14, gated 3.03.
Independent values need more than 7.
"""

from ml_collections import ConfigDict

from . import scales

METHOD = {
  'name': 'pixelcnn',
  'levels': 256,  # values of a number; fewer are sooner learned
  'hidden': 1024,  # channels of the last layer
}


def get_config(arg: str = '') -> ConfigDict:
  return scales.build(arg, METHOD, ADAPT, epochs={'shapes': 8}, variants={'gated': gated})


def gated(config: ConfigDict) -> None:
  """Two stacks with gates, in place of residual blocks."""
  config.encoder.name = f'gated_{config.encoder.name}'


def shapes(config: ConfigDict, epochs: int) -> None:
  """A small network on small images; ours."""
  del epochs
  scales.whole_images(config, 16)
  config.encoder.name = 'pixelcnn_micro'
  config.method.update(levels=32, hidden=96)
  config.optim.update(base_lr=1.6e-2, weight_decay=0.0)


def cifar10(config: ConfigDict, epochs: int) -> None:
  """The papers' network; AdamW in place of RMSProp; ours."""
  del epochs
  scales.whole_images(config, 32)
  config.train.batch_size = 128
  config.encoder.name = 'pixelcnn'
  config.optim.update(name='adamw', base_lr=1e-3, weight_decay=0.0, trust_coefficient=0.001)


def cifar10_small(config: ConfigDict, epochs: int) -> None:
  """As the shapes, at 32 px."""
  shapes(config, epochs)
  scales.whole_images(config, 32)


def photographs(config: ConfigDict, epochs: int) -> None:
  """As on CIFAR-10: 32 px is what a PixelCNN can do."""
  cifar10(config, epochs)


def smoke(config: ConfigDict, epochs: int) -> None:
  """The smallest network."""
  del epochs
  config.encoder.name = 'pixelcnn_micro'
  config.method.update(levels=8, hidden=16)


ADAPT = {
  'shapes': shapes,
  'cifar10': cifar10,
  'cifar10_small': cifar10_small,
  'imagenette': photographs,
  'imagenet': photographs,
  'smoke': smoke,
}
