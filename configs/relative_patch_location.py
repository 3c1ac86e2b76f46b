"""Relative patch location, or context prediction (Doersch et al. 2015, arXiv 1505.05192).

    python -m byoljax.main --config=configs/relative_patch_location.py

trains on the built-in shapes, minutes on a CPU, with four tiles. After a colon, a scale of
`configs/scales.py`; at `:imagenette` and `:imagenet` there are nine tiles, and

    :imagenet,doersch   the first paper's tiles: gaps and channel dropping instead of gray

Published results (theirs, not ours): ImageNet, AlexNet, linear classifiers on conv1 to conv5: 16.2,
23.3, 30.2, 31.7, 29.6 % top-1; ResNet-50, best layer, 51.2 % (arXiv 1901.09005).
"""

from ml_collections import ConfigDict

from . import scales

METHOD = {
  'name': 'relative_patch_location',
  'tiles': {
    'grid': 3,
    'tile': 64,  # pixels
    'gap': 0,  # pixels at least between tiles ...
    'jitter': 21,  # ... and at most so many more, drawn
    'gray_prob': 0.66,
    'project_prob': 0.0,  # of the rest: green against magenta is projected out
    'drop_prob': 0.0,  # of the rest: one channel is kept
    'channel_shift': 0,  # pixels at most
    'coarse_prob': 0.0,  # of the tiles lose resolution ...
    'coarse_side': 10,  # ... down to so many pixels
    'standardize': 'tile',  # or 'channel', 'none'
  },
  'hidden': (4096,),  # between two tiles' embeddings and the directions
  'dropout': 0.5,  # of the last hidden layer
}


def get_config(arg: str = '') -> ConfigDict:
  return scales.build(arg, METHOD, ADAPT, epochs={'imagenet': 35}, variants={'doersch': doersch})


def shapes(config: ConfigDict, epochs: int) -> None:
  """Four tiles, which is what 32 pixels have room for; ours."""
  del epochs
  scales.plain_view(config, crop_scale=(0.6, 1.0))
  _four_tiles(config)


def cifar10(config: ConfigDict, epochs: int) -> None:
  """The same; rate, decay and steps as for ImageNet."""
  del epochs
  scales.plain_view(config, crop_scale=(0.6, 1.0))
  _four_tiles(config)
  scales.sgd(config, base_lr=0.1, schedule='step', decay_at=(15 / 35, 25 / 35))


def imagenette(config: ConfigDict, epochs: int) -> None:
  """Nine tiles of 32 of 128 pixels; rate, decay and steps as for ImageNet."""
  del epochs
  scales.plain_view(config, crop_scale=(0.6, 1.0), size=128)
  config.method.tiles.update(tile=32, jitter=10)
  scales.sgd(config, base_lr=0.1, schedule='step', decay_at=(15 / 35, 25 / 35))


def imagenette_small(config: ConfigDict, epochs: int) -> None:
  """Nine tiles of 24 of 96 pixels."""
  del epochs
  scales.plain_view(config, crop_scale=(0.6, 1.0), size=96)
  config.method.tiles.update(tile=24, jitter=8)
  config.method.update(hidden=(256,), dropout=0.0)


def imagenet(config: ConfigDict, epochs: int) -> None:
  """Rate, decay and steps of Kolesnikov et al. (arXiv 1901.09005); square crops are ours."""
  del epochs
  config.train.batch_size = 256
  scales.plain_view(config, crop_scale=(0.6, 0.9), size=255)
  scales.sgd(config, base_lr=0.1, schedule='step', decay_at=(15 / 35, 25 / 35))
  config.optim.groups = {'head': {'weight_decay': 5e-4}}
  config.optim.update(decay_at=(15 / 35, 25 / 35), warmup='5 epochs')


def doersch(config: ConfigDict) -> None:
  """Tiles of the first paper, in views that have room for the grid to move."""
  config.views.view1.size = 480
  config.method.tiles.update(
    tile=96, gap=34, jitter=14, gray_prob=0.0, drop_prob=1.0, coarse_prob=1 / 3
  )


def smoke(config: ConfigDict, epochs: int) -> None:
  """Four tiles and a narrow head."""
  del epochs
  _four_tiles(config)
  config.method.hidden = (32,)


def _four_tiles(config: ConfigDict) -> None:
  config.method.tiles.update(grid=2, tile=12, gap=1, jitter=3)
  config.method.update(hidden=(256,), dropout=0.0)


ADAPT = {
  'shapes': shapes,
  'cifar10': cifar10,
  'cifar10_small': shapes,
  'imagenette': imagenette,
  'imagenette_small': imagenette_small,
  'folder_small': imagenette_small,
  'imagenet': imagenet,
  'smoke': smoke,
}
