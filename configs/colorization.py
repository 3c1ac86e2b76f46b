"""Colorization (Zhang, Isola and Efros 2016, arXiv 1603.08511).

    python -m byoljax.main --config=configs/colorization.py

trains on the built-in shapes, minutes on a CPU. After a colon, a scale of `configs/scales.py`, and

    :cifar10,regression   the paper's baseline: a and b themselves, squared errors

Published results (theirs, not ours): ImageNet, AlexNet, linear classifiers on conv1 to conv5: 12.5,
24.5, 30.4, 31.5, 30.3 % top-1.
"""

from ml_collections import ConfigDict

from . import scales

METHOD = {
  'name': 'colorization',
  'grid': 10.0,  # side of a bin of colors, in units of CIE Lab
  'bins': 313,  # how many, those nearest to the colors of sRGB; 0 = all that these are in
  'neighbors': 5,  # bins that a color is encoded with
  'sigma': 5.0,  # of that encoding, in units of CIE Lab
  'uniform': 0.5,  # share in the weights of colors; 1 = all weigh the same
  'temperature': 0.38,  # of the annealed mean, for pictures
  'loss': 'classification',  # or 'regression'
  'tap': '',  # which of the encoder's maps the decoder reads; '' = the last
  'stride': 4,  # pixels from one predicted color to the next
  'decoder_width': 64,  # channels of the decoder's last stage, doubled in each before it
}


def get_config(arg: str = '') -> ConfigDict:
  return scales.build(arg, METHOD, ADAPT, variants={'regression': regression})


def regression(config: ConfigDict) -> None:
  """Colors are gray where several are likely."""
  config.method.loss = 'regression'


def shapes(config: ConfigDict, epochs: int) -> None:
  """Bins of 20 units and a light decoder; ours."""
  del epochs
  config.encoder.input = 'lightness'
  config.method.update(grid=20.0, bins=0, sigma=10.0, decoder_width=32)
  scales.reconstructed_view(config, crop_scale=(0.5, 1.0))


def cifar10_small(config: ConfigDict, epochs: int) -> None:
  """The paper's bins, a color for every second pixel; ours."""
  del epochs
  config.encoder.input = 'lightness'
  config.method.update(stride=2, decoder_width=32)
  scales.reconstructed_view(config, crop_scale=(0.5, 1.0))


def cifar10(config: ConfigDict, epochs: int) -> None:
  """ResNet-18, a color for every second pixel; ours."""
  cifar10_small(config, epochs)
  config.method.decoder_width = 64
  config.optim.update(name='adamw', base_lr=1e-3, weight_decay=0.01)


def imagenette(config: ConfigDict, epochs: int) -> None:
  """ResNet-18, a color for every fourth pixel; ours."""
  del epochs
  config.encoder.input = 'lightness'
  config.train.batch_size = 128
  scales.reconstructed_view(config, crop_scale=(0.5, 1.0))
  config.optim.update(name='adamw', base_lr=1e-3, weight_decay=0.01)


def imagenet(config: ConfigDict, epochs: int) -> None:
  """The paper's network, batch, Adam and rate; theirs was lowered by hand in steps.

  Their weight decay is added to the gradient before Adam, as Caffe does, ours to the update after
  it, where at this rate it does next to nothing.
  """
  del epochs
  config.encoder.update(name='vgg_dilated', input='lightness')
  config.train.batch_size = 40
  scales.reconstructed_view(config, crop_scale=(0.5, 1.0))
  config.optim.update(
    name='adamw', lr_scaling='none', base_lr=3e-5, weight_decay=1e-3, b2=0.99, warmup='0 epochs'
  )


ADAPT = {
  'shapes': shapes,
  'cifar10': cifar10,
  'cifar10_small': cifar10_small,
  'imagenette': imagenette,
  'imagenet': imagenet,
}
