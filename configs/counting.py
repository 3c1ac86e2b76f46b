"""Learning to count (Noroozi, Pirsiavash and Favaro 2017, arXiv 1708.06734).

    python -m byoljax.main --config=configs/counting.py

trains on the built-in shapes, minutes on a CPU. After the colon, a scale of `configs/scales.py`.
The encoder sees images of half the view's side, five for each image of the batch.

Published results (theirs, not ours): ImageNet, AlexNet, linear classifiers on conv1 to conv5: 18.0,
30.6, 34.3, 32.5, 25.7 % top-1.
"""

from ml_collections import ConfigDict

from . import scales

METHOD = {
  'name': 'counting',
  'projector': (4096, 4096, 1000),  # each layer with a ReLU; the last are the counts
  'margin': 10.0,  # squared distance to the counts of another image
  'kernels': ('nearest', 'area', 'bilinear', 'bicubic', 'lanczos3'),  # for halving the image
}


def get_config(arg: str = '') -> ConfigDict:
  return scales.build(arg, METHOD, ADAPT)


def shapes(config: ConfigDict, epochs: int) -> None:
  """Small heads; views of 48 pixels, so that quarters have 24; ours."""
  del epochs
  config.method.projector = (256, 64)
  gray_view(config, size=48, crop_scale=(0.5, 1.0))


def cifar10(config: ConfigDict, epochs: int) -> None:
  """Views of 64 pixels, so that quarters have 32; ours."""
  del epochs
  config.method.projector = (1024, 256)
  gray_view(config, size=64, crop_scale=(0.5, 1.0))
  config.optim.update(name='adamw', base_lr=1e-3, weight_decay=1e-4)


def cifar10_small(config: ConfigDict, epochs: int) -> None:
  """As the shapes."""
  shapes(config, epochs)


def photographs(config: ConfigDict, epochs: int) -> None:
  """The paper's margin and number of counts; the optimizer is ours."""
  del epochs
  config.train.batch_size = 128
  gray_view(config, crop_scale=(0.5, 1.0))
  config.optim.update(name='adamw', base_lr=1e-3, weight_decay=1e-4)


def imagenet(config: ConfigDict, epochs: int) -> None:
  """The paper's network: AlexNet without normalization, with two layers of 4096 of its own."""
  photographs(config, epochs)
  config.encoder.name = 'alexnet_plain'
  config.method.projector = (1000,)


def gray_view(config: ConfigDict, **changes) -> None:
  """One view, gray in two of three cases: fringes of color are not to be counted."""
  scales.plain_view(config, gray_prob=0.67, **changes)


def smoke(config: ConfigDict, epochs: int) -> None:
  """Narrower heads."""
  del epochs
  config.method.projector = (64, 16)


ADAPT = {
  'shapes': shapes,
  'cifar10': cifar10,
  'cifar10_small': cifar10_small,
  'imagenette': photographs,
  'imagenet': imagenet,
  'smoke': smoke,
}
