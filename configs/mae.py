"""Masked autoencoders, MAE (He et al. 2021, arXiv 2111.06377).

    python -m byoljax.main --config=configs/mae.py

trains on the built-in shapes, minutes on a CPU: a small ViT with patches of 4 pixels. After the
colon, a scale of `configs/scales.py`, and

    ...,simmim    SimMIM (Xie et al. 2021, arXiv 2111.09886): the encoder sees masked patches in the
                  mean color, a linear layer predicts them; any encoder with maps

At `imagenet` the paper's ViT-B/16; `--config.encoder.name=vit_large` or `vit_huge` (patches of 14)
are its others. It is judged fine-tuned as much as frozen: `configs/finetune.py:mae`,
`configs/linear.py:mae`.

Published results (theirs, not ours): ImageNet, 1600 epochs, fine-tuned 83.6 / 85.9 / 86.9 % top-1
of ViT-B / L / H, linear 68.0 / 75.8 / 76.6 %.
"""

from ml_collections import ConfigDict

from . import scales

METHOD = {
  'name': 'mae',
  'mask_ratio': 0.75,
  'mask_size': 0,  # pixels on a side of what is masked, a multiple of a patch's; 0 = a patch
  'decoder_dim': 512,
  'decoder_depth': 8,  # 0: a linear layer, where patches are 'filled'
  'decoder_heads': 16,
  'norm_pixels': True,  # each patch normalized by its own mean and variance, to be a target
  'error': 'mse',  # or 'l1'
  'masked': 'dropped',  # from the encoder's input; or 'filled' with the mean color
}


def get_config(arg: str = '') -> ConfigDict:
  return scales.build(arg, METHOD, ADAPT, epochs={'imagenet': 800}, variants={'simmim': simmim})


def shapes(config: ConfigDict, epochs: int) -> None:
  """A small ViT and a smaller decoder; the rate is ours."""
  del epochs
  vit(config, 'vit_micro', base_lr=4e-3)
  config.method.update(decoder_dim=64, decoder_depth=1, decoder_heads=4)


def cifar10(config: ConfigDict, epochs: int) -> None:
  """ViT-S with patches of 4 pixels under the paper's decoder, as in solo-learn's recipe."""
  del epochs
  vit(config, 'vit_small_6heads', base_lr=2e-4, warmup='20 %')
  config.encoder.update(patch_size=4, grid=8)


def cifar10_small(config: ConfigDict, epochs: int) -> None:
  """As the shapes."""
  shapes(config, epochs)
  config.encoder.update(patch_size=config.views.view1.size // 8, grid=8)
  config.optim.warmup = '2 epochs'


def imagenette(config: ConfigDict, epochs: int) -> None:
  """ViT-S with patches of 16 pixels; the rate is the paper's."""
  del epochs
  vit(config, 'vit_small_6heads', base_lr=1.5e-4, warmup='20 %')
  config.encoder.grid = 8
  config.method.decoder_depth = 4


def imagenet(config: ConfigDict, epochs: int) -> None:
  """ViT-B as published."""
  del epochs
  vit(config, 'vit_base', base_lr=1.5e-4, warmup='5 %')
  scales.operators(config, 'torchvision')


def vit(config: ConfigDict, name: str, *, base_lr: float, warmup: str = '1 epochs') -> None:
  """The paper's view (crops and flips alone) and optimizer around one of the ViTs."""
  scales.plain_view(config, crop_scale=(0.2, 1.0))
  # Options that a ViT does not have are left at their defaults.
  config.encoder.update(name=name, positions='sincos_xy', stem='imagenet')
  config.optim.update(
    name='adamw', base_lr=base_lr, warmup=warmup, weight_decay=0.05, b2=0.95,
    trust_coefficient=0.001,
  )  # fmt: skip


def simmim(config: ConfigDict) -> None:
  """The paper's mask ratio, error and head; on ImageNet also its squares, optimizer and crops.

  Their batch is 2,048, and branches are dropped (0.1 in the last block), here not.
  """
  config.method.update(
    mask_ratio=0.6, masked='filled', decoder_depth=0, norm_pixels=False, error='l1'
  )
  if config.views.view1.size < 224:
    return
  config.method.mask_size = 32
  config.views.view1.crop_scale = (0.67, 1.0)
  config.optim.update(
    base_lr=1e-4 / 2,
    warmup='10 epochs',
    schedule='step',
    decay_at=(7 / 8,),
    b2=0.999,
    clip_norm=5.0,
  )


def smoke(config: ConfigDict, epochs: int) -> None:
  """The small encoder has no patches to leave out."""
  del epochs
  config.encoder.update(name='vit_micro', positions='sincos_xy', stem='imagenet')
  config.method.update(
    decoder_dim=32, decoder_depth=min(1, config.method.decoder_depth), mask_size=0
  )
  config.method.decoder_heads = 4


ADAPT = {
  'shapes': shapes,
  'cifar10': cifar10,
  'cifar10_small': cifar10_small,
  'imagenette': imagenette,
  'imagenet': imagenet,
  'smoke': smoke,
}
