"""VQ-VAE: images as maps of codes (van den Oord et al. 2017, arXiv 1711.00937).

    python -m byoljax.main --config=configs/vq_vae.py

trains on the built-in shapes, minutes on a CPU. After a colon, a scale of `configs/scales.py`, and

    :shapes,gradient      the codebook is learned by its gradient
"""

from ml_collections import ConfigDict

from . import scales

METHOD = {
  'name': 'vq_vae',
  'codes': 512,
  'dim': 64,  # numbers of a code
  'decay': 0.99,  # of the codebook's moving averages; 0 = learned by its gradient
  'beta': 0.25,  # of the commitment
  'restart': 0.1,  # share of the mean use below which a code starts anew; 0 = never
  'tap': '',  # which of the encoder's maps is quantized; '' = the last
  'decoder': 'codec',  # or 'codec_small', 'codec_wide'
}


def get_config(arg: str = '') -> ConfigDict:
  return scales.build(
    arg, METHOD, ADAPT, epochs={'shapes': 10, 'imagenet': 100}, variants={'gradient': gradient}
  )


def gradient(config: ConfigDict) -> None:
  """The third term of the paper's loss in place of moving averages."""
  config.method.decay = 0.0


def shapes(config: ConfigDict, epochs: int) -> None:
  """128 codes and the small networks; crops, mirrored; ours."""
  del epochs
  config.encoder.update(name='codec_small', stem='imagenet')
  config.method.update(codes=128, dim=16, decoder='codec_small')
  config.optim.update(name='adamw', base_lr=8e-3, warmup='1 epochs', weight_decay=0.0)
  scales.reconstructed_view(config, crop_scale=(0.5, 1.0))


def cifar10(config: ConfigDict, epochs: int) -> None:
  """The networks of Sonnet's example, and its Adam at 3e-4; its batch is 32, here 256."""
  del epochs
  config.encoder.update(name='codec', stem='imagenet')
  config.optim.update(
    name='adamw', base_lr=3e-4, lr_scaling='none', schedule='constant', warmup='0 epochs',
    weight_decay=0.0,
  )  # fmt: skip
  scales.reconstructed_view(config, crop_scale=(0.5, 1.0))


def photographs(config: ConfigDict, epochs: int) -> None:
  """The paper's networks: 256 channels, 512 codes, 4 pixels a code; Adam of 2e-4, batch 128."""
  cifar10(config, epochs)
  config.train.batch_size = 128
  config.encoder.name = config.method.decoder = 'codec_wide'
  config.optim.base_lr = 2e-4


ADAPT = {
  'shapes': shapes,
  'cifar10': cifar10,
  'cifar10_small': shapes,
  'imagenette': photographs,
  'imagenet': photographs,
}
