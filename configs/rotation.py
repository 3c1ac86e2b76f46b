"""RotNet: by how much was the image turned? (Gidaris et al. 2018, arXiv 1803.07728).

    python -m byoljax.main --config=configs/rotation.py

trains on the built-in shapes, minutes on a CPU. After the colon, a scale of `configs/scales.py`. A
step sees every image in all turns: four times the images of its batch.

Published results (theirs, not ours): ImageNet, AlexNet, linear classifiers on conv1 to conv5: 18.8,
31.7, 38.7, 38.2, 36.5 % top-1.
"""

from ml_collections import ConfigDict

from . import scales

METHOD = {
  'name': 'rotation',
  'angles': (0, 90, 180, 270),  # degrees, counterclockwise; multiples of 45
  'hidden': (),  # widths of layers under the classifier
}


def get_config(arg: str = '') -> ConfigDict:
  return scales.build(arg, METHOD, ADAPT, epochs={'imagenet': 50})


def shapes(config: ConfigDict, epochs: int) -> None:
  """One view without changes of color; ours."""
  del epochs
  scales.plain_view(config, crop_scale=(0.5, 1.0))


def cifar10_small(config: ConfigDict, epochs: int) -> None:
  """As the shapes."""
  shapes(config, epochs)


def cifar10(config: ConfigDict, epochs: int) -> None:
  """The authors' network, batch, rates and steps; random crops, not shifts by up to 4 pixels."""
  del epochs
  config.encoder.name = 'nin'
  config.train.batch_size = 128
  scales.plain_view(config, crop_scale=(0.6, 1.0))
  scales.sgd(config, base_lr=0.2, weight_decay=5e-4, schedule='step', nesterov=True)
  config.optim.update(decay_at=(0.3, 0.6, 0.8), decay_factor=0.2)


def imagenette(config: ConfigDict, epochs: int) -> None:
  """Photographs: the rate at ImageNet's, our crops."""
  del epochs
  config.train.batch_size = 64
  scales.plain_view(config, crop_scale=(0.4, 1.0))
  scales.sgd(config, base_lr=0.05, weight_decay=5e-4, schedule='step', nesterov=True)


def imagenet(config: ConfigDict, epochs: int) -> None:
  """The authors' network, batch, rates and steps; their crops are 224 of 256 pixels."""
  del epochs
  config.encoder.name = 'alexnet'
  config.train.batch_size = 192
  scales.plain_view(config, crop_scale=(0.5, 1.0))
  rate = 0.01 * 256 / 192
  scales.sgd(config, base_lr=rate, weight_decay=5e-4, schedule='step', nesterov=True)
  config.optim.decay_at = (0.3, 0.6, 0.9)


ADAPT = {
  'shapes': shapes,
  'cifar10': cifar10,
  'cifar10_small': cifar10_small,
  'imagenette': imagenette,
  'imagenet': imagenet,
}
