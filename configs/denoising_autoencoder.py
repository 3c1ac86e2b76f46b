"""Denoising autoencoder (Vincent et al. 2008; 2010, JMLR 11, 3371).

    python -m byoljax.main --config=configs/denoising_autoencoder.py

trains on the built-in shapes, minutes on a CPU. After a colon, a scale of `configs/scales.py`, and

    :shapes,masking       a quarter of the pixels is black
    :shapes,salt_pepper   a quarter of the pixels is black or white

Published results (theirs, not ours; an AlexNet autoencoder, as reported by Pathak et al., arXiv
1604.07379): VOC classification 53.8, detection 41.9 mAP, segmentation 25.2 mIoU.
"""

from ml_collections import ConfigDict

from . import scales

METHOD = {
  'name': 'denoising_autoencoder',
  'noise': 'gaussian',  # or 'masking', 'salt_pepper'
  'level': 0.25,  # sigma of values in [0, 1], or the share of the pixels
  'loss': 'mse',  # or 'bce'
  'emphasis': (1.0, 1.0),  # weights of disturbed and of other pixels; not with 'gaussian'
  'tap': '',  # which of the encoder's maps the decoder reads; '' = the last
  'decoder_width': 16,  # channels of the decoder's last stage, doubled in each before it
}


def get_config(arg: str = '') -> ConfigDict:
  variants = {'masking': masking, 'salt_pepper': salt_pepper}
  return scales.build(arg, METHOD, ADAPT, variants=variants)


def masking(config: ConfigDict) -> None:
  """Pixels are missing; those that are not count half."""
  config.method.update(noise='masking', emphasis=(1.0, 0.5))


def salt_pepper(config: ConfigDict) -> None:
  """Pixels are black or white."""
  config.method.update(noise='salt_pepper', emphasis=(1.0, 0.5))


def shapes(config: ConfigDict, epochs: int) -> None:
  """A light decoder; crops, mirrored; ours."""
  del epochs
  config.method.decoder_width = 8
  scales.reconstructed_view(config, crop_scale=(0.5, 1.0))


def cifar10(config: ConfigDict, epochs: int) -> None:
  """Crops, mirrored; AdamW; ours."""
  del epochs
  scales.reconstructed_view(config, crop_scale=(0.5, 1.0))
  config.optim.update(name='adamw', base_lr=1e-3, weight_decay=0.01)


def photographs(config: ConfigDict, epochs: int) -> None:
  """As on CIFAR-10."""
  cifar10(config, epochs)
  config.train.batch_size = 128


ADAPT = {
  'shapes': shapes,
  'cifar10': cifar10,
  'cifar10_small': shapes,
  'imagenette': photographs,
  'imagenet': photographs,
}
