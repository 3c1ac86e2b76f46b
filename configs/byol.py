"""BYOL (Grill et al. 2020, arXiv 2006.07733).

    python -m byoljax.main --config=configs/byol.py

trains on the built-in shapes, minutes on a CPU. After a colon:

    :cifar10                    ResNet-18, 200 epochs; :cifar10,1000 for 1000
    :cifar10_small              the small encoder, 40 epochs, for computers without a GPU
    :imagenette                 ResNet-18 at 128 px, 1000 epochs
    :imagenet,300               ResNet-50, batch 4096; 40, 100, 300 or 1000 epochs
    :folder                     your photographs: --config.data.dir=photos
    :folder_small               the same at 64 px with the small encoder, without a GPU
    :npz                        arrays, without TensorFlow: --config.data.dir=images.npz
    :smoke                      seconds, to see that it runs

Published results (theirs, not ours): ImageNet ResNet-50 linear top-1 72.5 % at 300 epochs, 74.3 %
at 1000; CIFAR-10 ResNet-18 92.58 % (solo-learn, 1000 epochs, online classifier); Imagenette
ResNet-18 about 92 % (authors' repository, 1000 epochs, online classifier). What we measured is in
experiments/. The ablations of the paper are in configs/bridge.py.
"""

from ml_collections import ConfigDict

from . import scales

METHOD = {
  'name': 'byol',
  'projector': (4096, 256),  # hidden, output
  'predictor': (4096, 256),
  'base_tau': 0.99,  # of the target at step 0; rises to 1 on a cosine
  'last_bias': False,  # of the heads' last layers
  'copy_target': False,  # whether the target starts as a copy of the online network
  'head_init': 'fan_in',  # or 'torch'
  'projection_norm': False,  # over the batch, as in MoCo v3
}

# Batch 4096: epochs -> (base lr per 256, weight decay, tau at step 0). Authors' configuration.
IMAGENET_PRESETS = {
  40: (0.45, 1e-6, 0.97),
  100: (0.45, 1e-6, 0.99),
  300: (0.3, 1e-6, 0.99),
  1000: (0.2, 1.5e-6, 0.996),
}


def get_config(arg: str = '') -> ConfigDict:
  return scales.build(
    arg, METHOD, ADAPT, epochs={'shapes': 50, 'imagenette': 1000, 'imagenet': 300}
  )


def shapes(config: ConfigDict, epochs: int) -> None:
  """Small heads, and a target that follows fast."""
  del epochs
  config.method.update(
    projector=(512, 128), predictor=(512, 128), base_tau=0.9, projection_norm=True
  )


def cifar10(config: ConfigDict, epochs: int) -> None:
  """The recipe behind solo-learn's published 92.58 %."""
  del epochs
  config.optim.update(base_lr=1.0, weight_decay=1e-5)
  config.method.update(last_bias=True, copy_target=True, head_init='torch')


def cifar10_small(config: ConfigDict, epochs: int) -> None:
  """Small heads."""
  del epochs
  config.method.update(projector=(512, 128), predictor=(512, 128))


def imagenette(config: ConfigDict, epochs: int) -> None:
  """The quick set-up of the authors' repository."""
  del epochs
  config.method.base_tau = 0.996
  haiku(config)


def haiku(config: ConfigDict) -> None:
  """Their ResNet: TensorFlow's padding, a projection in the first stage of ResNet-18, too."""
  config.encoder.update(padding='same', first_projection=config.encoder.name == 'resnet18')


def folder(config: ConfigDict, epochs: int) -> None:
  """A shorter run than Imagenette's: the target moves faster."""
  del epochs
  config.method.base_tau = 0.99


def imagenet(config: ConfigDict, epochs: int) -> None:
  """As published."""
  base_lr, weight_decay, base_tau = scales.preset(IMAGENET_PRESETS, epochs)
  config.method.base_tau = base_tau
  config.optim.update(base_lr=base_lr, weight_decay=weight_decay)
  haiku(config)


ADAPT = {
  'shapes': shapes,
  'cifar10': cifar10,
  'cifar10_small': cifar10_small,
  'imagenette': imagenette,
  'imagenet': imagenet,
  'folder': folder,
}
