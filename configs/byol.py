"""BYOL (Grill et al. 2020, arXiv 2006.07733).

    python -m byoljax.main --config=configs/byol.py

trains on the built-in shapes, minutes on a CPU. After a colon:

    :cifar10                    ResNet-18, 200 epochs; :cifar10,1000 for 1000
    :cifar10_small              the small encoder, 40 epochs, for computers without a GPU
    :imagenette                 ResNet-18 at 128 px, 1000 epochs
    :imagenet,300               ResNet-50, batch 4096; 40, 100, 300 or 1000 epochs
    :folder                     your photographs: --config.data.dir=photos
    :npz                        arrays, without TensorFlow: --config.data.dir=images.npz
    :smoke                      seconds, to see that it runs

Published results (theirs, not ours): ImageNet ResNet-50 linear top-1 72.5 % at 300 epochs, 74.3 %
at 1000; CIFAR-10 ResNet-18 92.58 % (solo-learn, 1000 epochs, online classifier); Imagenette
ResNet-18 about 92 % (authors' repository, 1000 epochs, online classifier). What we measured is in
experiments/.
"""

from ml_collections import ConfigDict

from configs import base

# Batch 4096: epochs -> (base lr per 256, weight decay, tau at step 0). Authors' configuration.
IMAGENET_PRESETS = {
  40: (0.45, 1e-6, 0.97),
  100: (0.45, 1e-6, 0.99),
  300: (0.3, 1e-6, 0.99),
  1000: (0.2, 1.5e-6, 0.996),
}


# Learning rates of linear heads on small encoders, per 256 examples; raw pixels need low ones.
WIDE_SWEEP = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)


def get_config(arg: str = '') -> ConfigDict:
  options = [option for option in arg.split(',') if option]
  config = base.get_config()
  config.method = ConfigDict(
    {
      'name': 'byol',
      'projector': (4096, 256),  # hidden, output
      'predictor': (4096, 256),
      'base_tau': 0.99,
      'target_mode': 'ema',  # constant_random, stop_gradient, none: ablations
      'symmetric': True,
    }
  )
  scale = options.pop(0) if options and options[0] in SCALES else 'shapes'
  SCALES[scale](config, options)
  return base.finish(config, options, known=SCALES)


def _epochs(options: list[str], default: int) -> int:
  """Takes a number of epochs out of the options."""
  if options and options[0].isdigit():
    return int(options.pop(0))
  return default


def shapes(config: ConfigDict, options: list[str]) -> None:
  """The built-in images, a small encoder, minutes on two CPU cores.

  AdamW with small batches did best among what was tried at this size; strong colour jitter matters
  most: colour is what the pictures differ in and what the classes do not depend on.
  """
  config.train.update(length=f'{_epochs(options, 30)} epochs', batch_size=64)
  config.data.update(name='shapes', mean=(0.5, 0.5, 0.5), std=(0.272, 0.272, 0.272))
  colour = {'size': 32, 'crop_scale': (0.3, 1.0), 'saturation': 0.8, 'hue': 0.5, 'gray_prob': 0.3}
  config.views.view1 = base.view(blur_prob=0.0, **colour)
  config.views.view2 = base.view(blur_prob=0.0, solarize_prob=0.2, **colour)
  config.encoder.update(name='small', stem='cifar')
  config.method.update(projector=(512, 128), predictor=(512, 128), base_tau=0.98)
  config.optim.update(name='adamw', base_lr=8e-3, warmup='1 epochs', weight_decay=1e-2)
  config.evals.update(image_size=32, batch_size=256, final=True)
  config.evals.knn.every = '10 epochs'
  config.evals.linear.update(
    length='15 epochs', batch_size=256, crop_scale=(0.3, 1.0), base_lr=WIDE_SWEEP
  )
  config.checkpoint.every = '10 epochs'
  config.log.every = '50 steps'


def cifar10(config: ConfigDict, options: list[str]) -> None:
  """ResNet-18 with the recipe behind solo-learn's published 92.58 %: its LARS, no blur."""
  config.train.update(length=f'{_epochs(options, 200)} epochs', batch_size=256)
  config.data.update(name='cifar10', mean=base.CIFAR10_MEAN, std=base.CIFAR10_STD)
  config.views.view1 = base.view(size=32, blur_prob=0.0)
  config.views.view2 = base.view(size=32, blur_prob=0.0, solarize_prob=0.2)
  config.encoder.update(name='resnet18', stem='cifar')
  config.optim.update(name='larc_clip', base_lr=1.0, weight_decay=1e-5, trust_coefficient=0.02)
  config.evals.update(image_size=32, final=True)
  config.evals.linear.update(length='100 epochs', batch_size=256)


def cifar10_small(config: ConfigDict, options: list[str]) -> None:
  """CIFAR-10 for a computer without a GPU: the small encoder."""
  epochs = _epochs(options, 40)
  cifar10(config, options)
  config.train.length = f'{epochs} epochs'
  for name in config.views:
    config.views[name].crop_scale = (0.2, 1.0)
  config.encoder.update(name='small')
  config.method.update(projector=(512, 128), predictor=(512, 128))
  config.optim.update(
    name='adamw', base_lr=2e-3, warmup='2 epochs', weight_decay=1e-4, trust_coefficient=0.001
  )
  config.evals.knn.max_bank = 10000
  config.evals.linear.update(length='20 epochs', crop_scale=(0.2, 1.0), base_lr=WIDE_SWEEP)


def imagenette(config: ConfigDict, options: list[str]) -> None:
  """ResNet-18 at 128 px: the quick set-up of the authors' repository."""
  config.train.update(length=f'{_epochs(options, 1000)} epochs', batch_size=256)
  config.data.update(name='imagenette')
  _resize_views(config, 128)
  config.encoder.update(name='resnet18')
  config.method.base_tau = 0.996
  config.optim.base_lr = 2.0
  config.evals.update(batch_size=256, final=True)
  config.evals.linear.update(batch_size=256)
  config.checkpoint.every = config.evals.knn.every = '20 epochs'


def imagenet(config: ConfigDict, options: list[str]) -> None:
  """ResNet-50 at 224 px, batch 4096, as published."""
  epochs = _epochs(options, 300)
  if epochs not in IMAGENET_PRESETS:
    nearest = min(IMAGENET_PRESETS, key=lambda preset: abs(preset - epochs))
    raise ValueError(
      f'there is no preset of {epochs} epochs, only {", ".join(map(str, IMAGENET_PRESETS))}: '
      f'take imagenet,{nearest} and set --config.train.length.'
    )
  base_lr, weight_decay, base_tau = IMAGENET_PRESETS[epochs]
  config.train.update(length=f'{epochs} epochs', batch_size=4096)
  config.method.base_tau = base_tau
  config.optim.update(base_lr=base_lr, weight_decay=weight_decay)


def folder(config: ConfigDict, options: list[str]) -> None:
  """Any folder of photographs, with or without class sub-folders: ResNet-18 at 128 px."""
  config.train.update(length=f'{_epochs(options, 200)} epochs', batch_size=256)
  config.data.update(name='folder')
  _resize_views(config, 128)
  config.encoder.update(name='resnet18')
  config.method.base_tau = 0.99
  config.optim.base_lr = 1.0
  config.evals.update(batch_size=256, final=True)
  config.evals.linear.update(batch_size=256)


def npz(config: ConfigDict, options: list[str]) -> None:
  """Arrays in an .npz file, 32 px: CIFAR-10's recipe, without TensorFlow."""
  cifar10(config, options)
  config.data.name = 'npz'


def _resize_views(config: ConfigDict, size: int) -> None:
  for name in config.views:
    config.views[name].size = size
  config.evals.image_size = size


SCALES = {
  'shapes': shapes,
  'cifar10': cifar10,
  'cifar10_small': cifar10_small,
  'imagenette': imagenette,
  'imagenet': imagenet,
  'folder': folder,
  'npz': npz,
}
