"""MoCo v3 (Chen, Xie and He 2021, arXiv 2104.02057).

    python -m byoljax.main --config=configs/moco_v3.py

    :cifar10 :cifar10_small :imagenette :imagenet,300 :folder :npz    scales, see configs/scales.py
    ...,vit       ViT-S/16 with the paper's recipe (at 32 px a small ViT with 4-pixel patches)
    ...,smoke     seconds, to see that it runs

Published results (theirs, not ours): ImageNet linear top-1 of ResNet-50 68.9 / 72.8 / 74.6 % at
100 / 300 / 1000 epochs, of ViT-S 73.2 % at 300; CIFAR-10 ResNet-18 93.10 % (solo-learn, 1000
epochs, online classifier).
"""

from ml_collections import ConfigDict

from . import scales

METHOD = {
  'name': 'moco_v3',
  'projector': (4096, 256),
  'predictor': (4096, 256),
  'predictor_norm': False,
  'temperature': 1.0,
  'base_tau': 0.99,
  'freeze_patch_embed': False,
  'head_init': 'fan_in',  # or 'torch'
}

# Batch 4096: epochs -> (base lr per 256, weight decay, tau at step 0). Authors' configuration.
IMAGENET_PRESETS = {
  100: (0.6, 1e-6, 0.99),
  300: (0.3, 1e-6, 0.99),
  1000: (0.3, 1.5e-6, 0.996),
}


def get_config(arg: str = '') -> ConfigDict:
  return scales.build(arg, METHOD, ADAPT, epochs={'imagenet': 300}, variants={'vit': vit})


def shapes(config: ConfigDict, epochs: int) -> None:
  """Small heads and a lower temperature."""
  del epochs
  config.method.update(projector=(512, 128), predictor=(512, 128), temperature=0.2, base_tau=0.98)


def cifar10(config: ConfigDict, epochs: int) -> None:
  """The script behind solo-learn's published 93.10 %: other views than their present one's."""
  del epochs
  config.method.update(temperature=0.2, head_init='torch')
  config.optim.update(name='larc', base_lr=0.3, weight_decay=1e-6)
  for view, blur_prob in ((config.views.view1, 1.0), (config.views.view2, 0.1)):
    view.update(crop_scale=(0.2, 1.0), saturation=0.4, blur_prob=blur_prob)


def cifar10_small(config: ConfigDict, epochs: int) -> None:
  """Small heads."""
  del epochs
  config.method.update(projector=(512, 128), predictor=(512, 128), temperature=0.2)


def imagenette(config: ConfigDict, epochs: int) -> None:
  """BYOL's quick set-up with this loss."""
  del epochs
  config.method.temperature = 0.2
  scales.operators(config, 'torchvision', 'bilinear')


def imagenet(config: ConfigDict, epochs: int) -> None:
  """ResNet-50 as published."""
  base_lr, weight_decay, base_tau = scales.preset(IMAGENET_PRESETS, epochs)
  config.method.update(base_tau=base_tau, head_init='torch')
  config.encoder.zero_init_residual = True
  scales.operators(config, 'torchvision', 'bilinear')
  config.optim.update(base_lr=base_lr, weight_decay=weight_decay)
  for view in config.views.values():
    view.crop_scale = (0.2, 1.0)


def vit(config: ConfigDict) -> None:
  """The paper's ViT recipe; a small ViT where images are small."""
  small = config.views.view1.size <= 64
  config.encoder.update(name='vit_micro' if small else 'vit_small')
  # Options that a ViT does not have are left at their defaults.
  config.encoder.update(stem='imagenet', zero_init_residual=False)
  *hidden, out = config.method.projector
  config.method.update(
    projector=(*hidden, hidden[-1], out),
    predictor_norm=True,
    temperature=0.2,
    freeze_patch_embed=True,
  )
  config.optim.update(name='adamw', base_lr=1.5e-4, weight_decay=0.1, exclude_bias_and_norm=False)
  if small:
    config.optim.update(base_lr=2e-3, weight_decay=1e-2)
  else:
    config.optim.warmup = '40 epochs'
    for view in config.views.values():
      view.crop_scale = (0.08, 1.0)


def smoke(config: ConfigDict, epochs: int) -> None:
  """The small encoder has no patches."""
  del epochs
  config.method.freeze_patch_embed = False


ADAPT = {
  'shapes': shapes,
  'cifar10': cifar10,
  'cifar10_small': cifar10_small,
  'imagenette': imagenette,
  'imagenet': imagenet,
  'smoke': smoke,
}
