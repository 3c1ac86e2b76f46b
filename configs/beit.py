"""BEiT: a vision transformer names the codes of hidden patches (Bao et al. 2021, arXiv 2106.08254).

    python -m byoljax.main --config=configs/dvae.py --workdir=runs/dvae
    python -m byoljax.main --config=configs/beit.py --config.codec=runs/dvae

trains on the built-in shapes, minutes on a CPU: a small ViT with patches of 4 pixels. After a
colon, a scale of `configs/scales.py`, which has to be the codec's, or to normalize images alike.

At `imagenet` the paper's ViT-B/16 and its 800 epochs. It is judged fine-tuned: learning rates fall
from the last block to the first, `configs/finetune.py`.

Published results (theirs, not ours): ImageNet, 800 epochs, ViT-B fine-tuned at 224 px 83.2 % top-1.
"""

from ml_collections import ConfigDict

from . import mae, scales

METHOD = {
  'name': 'beit',
  'mask_ratio': 0.4,  # of the patches
  'least_block': 16,  # places of the smallest rectangle; 0 = places anywhere
}


def get_config(arg: str = '') -> ConfigDict:
  config = scales.build(arg, METHOD, ADAPT, epochs={'shapes': 10, 'imagenet': 800})
  config.codec = ''  # a run of dvae, vq_vae or vq_gan
  return config


def shapes(config: ConfigDict, epochs: int) -> None:
  """A small ViT of 64 patches, whose rectangles are smaller; the rate is MAE's recipe's."""
  del epochs
  mae.vit(config, 'vit_micro', base_lr=4e-3)
  config.method.least_block = 4
  config.checkpoint.update(every='20 %', keep=5)


def cifar10(config: ConfigDict, epochs: int) -> None:
  """ViT-S with 64 patches of 4 pixels."""
  mae.cifar10(config, epochs)
  config.method.least_block = 4


def cifar10_small(config: ConfigDict, epochs: int) -> None:
  """As the shapes."""
  shapes(config, epochs)
  config.encoder.update(patch_size=config.views.view1.size // 8, grid=8)
  config.optim.warmup = '2 epochs'


def imagenette(config: ConfigDict, epochs: int) -> None:
  """ViT-S with 64 patches of 16 pixels; the rate is the paper's."""
  del epochs
  mae.vit(config, 'vit_small_6heads', base_lr=1.5e-3 / 8, warmup='20 %')
  config.encoder.grid = 8
  config.method.least_block = 4


def imagenet(config: ConfigDict, epochs: int) -> None:
  """The paper's ViT-B, its AdamW of 1.5e-3 for 2,048 images, crops and jitter of colors."""
  del epochs
  mae.vit(config, 'vit_base', base_lr=1.5e-3 / 8, warmup='10 epochs')
  config.optim.update(b2=0.999, clip_norm=3.0)
  config.views.view1.update(
    crop_scale=(0.08, 1.0), jitter_prob=1.0, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.0
  )
  scales.operators(config, 'torchvision')


def smoke(config: ConfigDict, epochs: int) -> None:
  """The small ViT, with rectangles for its few patches."""
  shapes(config, epochs)
  config.optim.warmup = '2 steps'


ADAPT = {
  'shapes': shapes,
  'cifar10': cifar10,
  'cifar10_small': cifar10_small,
  'imagenette': imagenette,
  'imagenet': imagenet,
  'smoke': smoke,
}
