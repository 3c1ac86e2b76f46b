"""Split-brain autoencoder (Zhang, Isola and Efros 2017, arXiv 1611.09842).

    python -m byoljax.main --config=configs/split_brain.py

trains on the built-in shapes, minutes on a CPU. After a colon, a scale of `configs/scales.py`, and

    :shapes,rgbd         images and depth, of the built-in scenes `sprites`
    :cifar10,regression  numbers in the place of classes

With `rgbd` other data need a field 'depth'; `method.depth_range` is its unit.

Published results (theirs, not ours): ImageNet, AlexNet, linear classifiers on conv1 to conv5: 17.7,
29.3, 35.4, 35.2, 32.8 % top-1.
"""

from ml_collections import ConfigDict

from . import scales

METHOD = {
  'name': 'split_brain',
  'loss': 'classification',  # or 'regression'
  'grid': 10.0,  # side of a bin of colors, in units of CIE Lab
  'bins': 313,  # how many, those nearest to the colors of sRGB; 0 = all that these are in
  'neighbors': 5,  # bins that a color is encoded with
  'sigma': 5.0,  # of that encoding, in units of CIE Lab
  'lightness_bins': 100,
  'depth_bins': 32,
  'depth_range': (0.0, 1.0),  # least and greatest depth
  'temperature': 0.38,  # of the annealed mean, for pictures
  'tap': '',  # which of the encoder's maps the decoders read; '' = the last
  'stride': 4,  # pixels from one prediction to the next
  'decoder_width': 64,  # channels of the decoders' last stage, doubled in each before it
}


def get_config(arg: str = '') -> ConfigDict:
  variants = {'rgbd': rgbd, 'regression': regression}
  return scales.build(arg, METHOD, ADAPT, variants=variants)


def rgbd(config: ConfigDict) -> None:
  """Depth in the place of color; of the built-in sets `sprites` has one."""
  config.encoder.input = 'rgbd_halves'
  config.data.fields = ('depth:map',)
  if config.data.name == 'shapes':
    config.data.name = 'sprites'


def regression(config: ConfigDict) -> None:
  """Numbers in the place of classes."""
  config.method.loss = 'regression'


def shapes(config: ConfigDict, epochs: int) -> None:
  """Coarser classes and light decoders; ours."""
  cifar10_small(config, epochs)
  config.method.update(grid=20.0, bins=0, sigma=10.0, lightness_bins=25, stride=4)


def cifar10_small(config: ConfigDict, epochs: int) -> None:
  """Predictions for every second pixel, light decoders; ours."""
  del epochs
  config.encoder.input = 'lab_halves'
  config.method.update(stride=2, decoder_width=32)
  scales.reconstructed_view(config, crop_scale=(0.5, 1.0))


def cifar10(config: ConfigDict, epochs: int) -> None:
  """ResNet-18, predictions for every second pixel; ours."""
  cifar10_small(config, epochs)
  config.method.decoder_width = 64
  config.optim.update(name='adamw', base_lr=1e-3, weight_decay=0.01)


def photographs(config: ConfigDict, epochs: int) -> None:
  """Predictions for every fourth pixel; ours."""
  del epochs
  config.encoder.input = 'lab_halves'
  config.train.batch_size = 128
  scales.reconstructed_view(config, crop_scale=(0.5, 1.0))
  config.optim.update(name='adamw', base_lr=1e-3, weight_decay=0.01)


def imagenet(config: ConfigDict, epochs: int) -> None:
  """AlexNet without its fully connected layers, predictions at its last map's places."""
  photographs(config, epochs)
  config.encoder.update(name='alexnet', fc_dim=0)
  config.method.stride = 16


ADAPT = {
  'shapes': shapes,
  'cifar10': cifar10,
  'cifar10_small': cifar10_small,
  'imagenette': photographs,
  'imagenet': imagenet,
}
