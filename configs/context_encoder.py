"""Context encoder: fills holes (Pathak et al. 2016, arXiv 1604.07379).

    python -m byoljax.main --config=configs/context_encoder.py

trains on the built-in shapes, minutes on a CPU. After a colon, a scale of `configs/scales.py`, and

    :shapes,center        the hole is the middle half of each side, with an overlap
    :shapes,blocks        holes are up to four squares
    :shapes,adversarial   a discriminator looks at what was painted

Published results (theirs, not ours; AlexNet, L2 alone, random regions): VOC classification 56.5,
detection 44.5 mAP, segmentation 29.7 mIoU.
"""

from ml_collections import ConfigDict

from . import scales

METHOD = {
  'name': 'context_encoder',
  'hole': 'region',  # or 'center', 'blocks'
  'share': 0.25,  # of the image
  'overlap': 0,  # pixels of the hole's border that are seen
  'overlap_weight': 10.0,  # of errors there
  'adversarial': 'none',  # or 'alternating', 'simultaneous'
  'adversarial_weight': 0.001,
  'discriminator_width': 64,  # channels of its first stage
  'discriminator_stages': 4,  # halvings of the image
  'tap': '',  # which of the encoder's maps the decoder reads; '' = the last
  'decoder_width': 16,  # channels of the decoder's last stage, doubled in each before it
  'channelwise': True,  # a channel-wise fully connected layer between encoder and decoder
}


def get_config(arg: str = '') -> ConfigDict:
  variants = {'center': center, 'blocks': blocks, 'adversarial': adversarial}
  return scales.build(arg, METHOD, ADAPT, variants=variants)


def center(config: ConfigDict) -> None:
  """The authors' overlap, 4 of 128 pixels."""
  config.method.update(hole='center', overlap=max(1, config.views.view1.size // 32))


def blocks(config: ConfigDict) -> None:
  """Squares anywhere."""
  config.method.hole = 'blocks'


def adversarial(config: ConfigDict) -> None:
  """A discriminator of a tenth of the rate, as the authors' code has it.

  From CIFAR-10 on also their first moment of 0.5, for both players.
  """
  rate = 0.1 * config.optim.base_lr
  if config.encoder.name != 'small':
    config.optim.momentum = 0.5
  config.method.adversarial = 'alternating'
  config.optim.groups = ConfigDict({'discriminator': {'base_lr': rate}})


def shapes(config: ConfigDict, epochs: int) -> None:
  """A light decoder and a small discriminator; crops, mirrored; ours."""
  del epochs
  config.method.update(decoder_width=8, discriminator_width=16, discriminator_stages=3)
  scales.reconstructed_view(config, crop_scale=(0.5, 1.0))


def cifar10(config: ConfigDict, epochs: int) -> None:
  """Crops, mirrored; AdamW; ours."""
  del epochs
  config.method.discriminator_stages = 3
  scales.reconstructed_view(config, crop_scale=(0.5, 1.0))
  config.optim.update(name='adamw', base_lr=1e-3, weight_decay=0.01)


def photographs(config: ConfigDict, epochs: int) -> None:
  """As on CIFAR-10, with the authors' depth of the discriminator."""
  cifar10(config, epochs)
  config.train.batch_size = 128
  config.method.discriminator_stages = 4


def imagenet(config: ConfigDict, epochs: int) -> None:
  """The network of the paper's features, AlexNet up to its last map, here with normalization."""
  photographs(config, epochs)
  config.encoder.update(name='alexnet', fc_dim=0)


ADAPT = {
  'shapes': shapes,
  'cifar10': cifar10,
  'cifar10_small': shapes,
  'imagenette': photographs,
  'imagenet': imagenet,
}
