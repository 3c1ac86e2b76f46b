"""Jigsaw puzzles (Noroozi and Favaro 2016, arXiv 1603.09246).

    python -m byoljax.main --config=configs/jigsaw.py

trains on the built-in shapes, minutes on a CPU: four tiles, all 24 permutations. After a colon, a
scale of `configs/scales.py`: 100 permutations of nine tiles at `:imagenette` and `:imagenet`.

Published results (theirs, not ours): ImageNet, AlexNet, linear classifiers on conv1 to conv5: 18.2,
28.8, 34.0, 33.9, 27.1 % top-1. ResNet-50, best layer, with 100, 2000 and 10,000 permutations: 48.6,
46.7 and 48.1 % (arXiv 1905.01235).
"""

from ml_collections import ConfigDict

from . import scales

METHOD = {
  'name': 'jigsaw',
  'tiles': {
    'grid': 3,
    'tile': 64,  # pixels
    'gap': 0,  # pixels at least between tiles ...
    'jitter': 21,  # ... and at most so many more, drawn
    'gray_prob': 0.5,
    'project_prob': 0.5,  # of the rest: green against magenta is projected out
    'drop_prob': 0.0,  # of the rest: one channel is kept
    'channel_shift': 2,  # pixels at most
    'coarse_prob': 0.0,
    'coarse_side': 10,
    'standardize': 'channel',  # or 'tile', 'none'
  },
  'permutations': 100,
  'rule': 'mean',  # or 'minimum': the distance that is kept large
  'permutation_seed': 0,
  'puzzles': 8,  # of each image in a step
  'tile_features': (1000,),  # on each tile's embedding
  'hidden': (),  # on all tiles together
}


def get_config(arg: str = '') -> ConfigDict:
  return scales.build(arg, METHOD, ADAPT, epochs={'imagenet': 105})


def shapes(config: ConfigDict, epochs: int) -> None:
  """Four tiles, which is what 32 pixels have room for, and all permutations; ours.

  Channels keep their contrast to one another, which teaches more here (docs/pretext.md).
  """
  cifar10_small(config, epochs)
  config.method.tiles.standardize = 'tile'


def cifar10_small(config: ConfigDict, epochs: int) -> None:
  """Four tiles and all permutations; ours."""
  del epochs
  scales.plain_view(config, crop_scale=(0.6, 1.0))
  _four_tiles(config)


def cifar10(config: ConfigDict, epochs: int) -> None:
  """The same; rate, decay and steps as for ImageNet."""
  del epochs
  scales.plain_view(config, crop_scale=(0.6, 1.0))
  _four_tiles(config)
  scales.sgd(config, base_lr=0.1, schedule='step', decay_at=(0.3, 0.6, 0.85, 0.95))


def imagenette(config: ConfigDict, epochs: int) -> None:
  """Nine tiles of 32 of 128 pixels; rate, decay and steps as for ImageNet."""
  del epochs
  scales.plain_view(config, crop_scale=(0.6, 1.0), size=128)
  config.method.tiles.update(tile=32, jitter=10, channel_shift=1)
  scales.sgd(config, base_lr=0.1, schedule='step', decay_at=(0.3, 0.6, 0.85, 0.95))


def imagenette_small(config: ConfigDict, epochs: int) -> None:
  """Nine tiles of 24 of 96 pixels."""
  del epochs
  scales.plain_view(config, crop_scale=(0.6, 1.0), size=96)
  config.method.tiles.update(tile=24, jitter=8, channel_shift=1)
  config.method.tile_features = (128,)


def imagenet(config: ConfigDict, epochs: int) -> None:
  """Batch, rate, decay and steps of Goyal et al. (arXiv 1905.01235); square crops are ours."""
  del epochs
  config.train.batch_size = 256
  scales.plain_view(config, crop_scale=(0.6, 0.9), size=255)
  scales.sgd(config, base_lr=0.1, schedule='step', decay_at=(0.3, 0.6, 0.85, 0.95))
  config.optim.decay_at = (30 / 105, 60 / 105, 90 / 105, 100 / 105)


def smoke(config: ConfigDict, epochs: int) -> None:
  """Four tiles and few permutations."""
  del epochs
  _four_tiles(config)
  config.method.update(permutations=6, puzzles=2, tile_features=(32,))


def _four_tiles(config: ConfigDict) -> None:
  config.method.tiles.update(grid=2, tile=12, gap=1, jitter=3, channel_shift=1)
  config.method.update(permutations=24, tile_features=(128,), hidden=(256,))


ADAPT = {
  'shapes': shapes,
  'cifar10': cifar10,
  'cifar10_small': cifar10_small,
  'imagenette': imagenette,
  'imagenette_small': imagenette_small,
  'folder_small': imagenette_small,
  'imagenet': imagenet,
  'smoke': smoke,
}
