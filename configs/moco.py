"""MoCo v1 and v2 (He et al. 2019, arXiv 1911.05722; Chen et al. 2020, arXiv 2003.04297).

    python -m byoljax.main --config=configs/moco.py

    :cifar10 :cifar10_small :imagenette :imagenet,200 :folder :npz    scales, see configs/scales.py
    ...,v1        one linear layer as head, v1's temperature, views and schedule
    ...,smoke     seconds, to see that it runs

Published results (theirs, not ours): ImageNet ResNet-50 linear top-1 60.6 % (v1, 200 epochs),
67.5 % (v2, 200 epochs), 71.1 % (v2, 800 epochs); CIFAR-10 ResNet-18, 800 epochs: k-NN 89.7 %,
linear 90.7 % (the authors' notebook, symmetric).
"""

from ml_collections import ConfigDict

from . import scales

METHOD = {
  'name': 'moco',
  'projector': (2048, 128),  # hidden, output; (128,) in v1
  'projector_norm': False,
  'temperature': 0.2,
  'tau': 0.999,
  'queue_size': 65536,
  'bn_groups': 8,  # parts of the batch with statistics of their own: 8 GPUs in the paper
  'symmetric': False,
  'head_init': 'fan_in',  # or 'torch'
}


def get_config(arg: str = '') -> ConfigDict:
  return scales.build(arg, METHOD, ADAPT, epochs={'imagenet': 200}, variants={'v1': v1})


def shapes(config: ConfigDict, epochs: int) -> None:
  """A small head, both directions, a slow key network, a short queue, groups of 32 images.

  With a weight of .95 and groups of 16, k-NN was 23 % after 10 epochs, with these 49 % (held-out
  images, one seed).
  """
  del epochs
  config.method.update(projector=(512, 128), tau=0.996, queue_size=1024, bn_groups=2)
  config.method.symmetric = True


def cifar10(config: ConfigDict, epochs: int) -> None:
  """The authors' CIFAR-10 notebook, symmetric: a linear head, batch 512."""
  del epochs
  config.method.update(projector=(128,), tau=0.99, queue_size=4096, temperature=0.1)
  config.method.update(symmetric=True, head_init='torch')
  config.train.batch_size = 512
  config.data.std = (0.2023, 0.1994, 0.201)
  scales.sgd(config, base_lr=0.03, weight_decay=5e-4)
  views(config, blur_prob=0.0, crop_scale=(0.08, 1.0))
  scales.operators(config, 'torchvision', 'bilinear')


def cifar10_small(config: ConfigDict, epochs: int) -> None:
  """A small head."""
  del epochs
  config.method.update(projector=(512, 128), tau=0.99, queue_size=4096, symmetric=True)
  views(config, blur_prob=0.0)


def imagenette(config: ConfigDict, epochs: int) -> None:
  """v2's recipe with a queue smaller than the data."""
  del epochs
  config.method.update(tau=0.99, queue_size=4096, head_init='torch')
  scales.sgd(config, base_lr=0.03, weight_decay=1e-4)
  views(config)
  scales.operators(config, 'torchvision', 'bilinear')


def imagenet(config: ConfigDict, epochs: int) -> None:
  """v2 as published: batch 256, no warm-up, the rate moves once an epoch."""
  del epochs
  config.train.batch_size = 256
  config.method.head_init = 'torch'
  scales.sgd(config, base_lr=0.03, weight_decay=1e-4)
  views(config)
  scales.operators(config, 'torchvision', 'bilinear')


def smoke(config: ConfigDict, epochs: int) -> None:
  """Statistics of the whole batch: any number of devices can share it."""
  del epochs
  config.method.bn_groups = 0


def views(config: ConfigDict, **changes) -> None:
  """v2's views: SimSiam's and InterCLR's, too."""
  color = {'brightness': 0.4, 'contrast': 0.4, 'saturation': 0.4, 'hue': 0.1, 'blur_prob': 0.5}
  scales.alike(config, **({'crop_scale': (0.2, 1.0)} | color | changes))


def v1(config: ConfigDict) -> None:
  """A linear head, temperature .07, jitter always and without blur, steps at 60 and 80 %."""
  config.method.update(projector=config.method.projector[-1:], temperature=0.07)
  if config.optim.name == 'sgd':
    config.optim.update(schedule='step', lr_update='step')
    views(config, jitter_prob=1.0, hue=0.4, blur_prob=0.0)


ADAPT = {
  'shapes': shapes,
  'cifar10': cifar10,
  'cifar10_small': cifar10_small,
  'imagenette': imagenette,
  'imagenet': imagenet,
  'smoke': smoke,
}
