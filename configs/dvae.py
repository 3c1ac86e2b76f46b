"""The discrete VAE of DALL-E (Ramesh et al. 2021, arXiv 2102.12092).

    python -m byoljax.main --config=configs/dvae.py

trains on the built-in shapes, minutes on a CPU. After a colon, a scale of `configs/scales.py`.

Published: no number of the codec by itself; its code is known for 256 px in 32x32 codes of 8,192.
"""

from ml_collections import ConfigDict

from . import scales

METHOD = {
  'name': 'dvae',
  'codes': 8192,
  'dim': 128,  # numbers of a code
  'tau': 1.0,  # temperature of the Gumbel-softmax, falling on a cosine ...
  'tau_end': 0.0625,  # ... to this one
  'tau_length': '5 %',  # 150,000 of the paper's 3,000,000 steps
  'kl_weight': 6.6,
  'kl_warmup': '5000 steps',
  'tap': '',  # which of the encoder's maps is quantized; '' = the last
  'decoder': 'codec',
}


def get_config(arg: str = '') -> ConfigDict:
  return scales.build(arg, METHOD, ADAPT, epochs={'shapes': 10})


def shapes(config: ConfigDict, epochs: int) -> None:
  """128 codes and the small networks; hotter at first, so that many codes come into use; ours."""
  del epochs
  config.encoder.update(name='codec_small', stem='imagenet')
  config.method.update(
    codes=128, dim=16, tau=4.0, tau_end=0.5, tau_length='60 %', kl_weight=0.1, kl_warmup='50 %',
    decoder='codec_small',
  )  # fmt: skip
  config.optim.update(name='adamw', base_lr=8e-3, warmup='1 epochs', weight_decay=0.0)
  scales.reconstructed_view(config, crop_scale=(0.5, 1.0))


def photographs(config: ConfigDict, epochs: int) -> None:
  """512 codes, VQ-VAE's networks, Adam on a cosine from the paper's 1e-4; batch 128."""
  del epochs
  config.train.batch_size = 128
  config.encoder.update(name='codec', stem='imagenet')
  config.method.update(codes=512, kl_warmup='5 %', tau_length='30 %')
  config.optim.update(
    name='adamw', base_lr=1e-4, lr_scaling='none', warmup='0 epochs', weight_decay=0.0
  )
  scales.reconstructed_view(config, crop_scale=(0.5, 1.0))


def imagenet(config: ConfigDict, epochs: int) -> None:
  """The paper's size: 256 px, 8 pixels a code of 8,192, batch 512, weight decay 1e-4, its rates."""
  photographs(config, epochs)
  config.train.batch_size = 512
  config.views.view1.size = config.evals.image_size = 256
  config.encoder.update(name='codec_wide', stride=8)
  config.method.update(
    codes=8192, decoder='codec_wide', kl_warmup='5000 steps', tau_length='150000 steps'
  )
  config.optim.update(weight_decay=1e-4, min_lr=1.25e-6)


ADAPT = {
  'shapes': shapes,
  'cifar10': photographs,
  'cifar10_small': shapes,
  'imagenette': photographs,
  'imagenet': imagenet,
}
