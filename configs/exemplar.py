"""Exemplar-CNN (Dosovitskiy et al. 2014, arXiv 1406.6909), and its form that scales.

    python -m byoljax.main --config=configs/exemplar.py

trains on the built-in shapes, minutes on a CPU, in the triplet form of Kolesnikov et al. (arXiv
1901.09005), of random crops: a softmax over images needs many more passes over them. After a colon,
a scale of `configs/scales.py`, of which `imagenet` has that form, too, and

    :cifar10,triplet    that form in place of the softmax
    :shapes,softmax     a class for each image, and changed patches

Published results (theirs, not ours): STL-10 72.8 to 74.2 % with a linear SVM on features of four
quadrants; ImageNet, ResNet-50 of three times the width with triplets, 46.0 %.
"""

from ml_collections import ConfigDict

from . import scales

METHOD = {
  'name': 'exemplar',
  'form': 'softmax',  # or 'triplet'
  'patches': 'seeds',  # changed patches of the view; or 'views', the configured views themselves
  'samples': 8,  # of every image in a step; with 'views' as many as those
  'changes': {  # to a seed patch
    'patch': 32,  # pixels
    'translation': 0.2,  # of the patch's side
    'scale': (0.7, 1.4),
    'rotation': 20.0,  # degrees
    'components': (0.5, 2.0),  # contrast 1: factors of the principal components of the colors
    'power': (0.25, 4.0),  # contrast 2, of saturation and value ...
    'factor': (0.7, 1.4),
    'offset': 0.1,
    'hue': 0.1,  # of the circle
  },
  'patch_seed': 0,  # where patches are
  'gray_prob': 0.0,
  'standardize': 'none',  # or 'tile', 'channel': of every sample
  'hidden': (),  # layers under the classifier, for 'softmax'
  'projector': (1000,),  # for 'triplet', as the two below
  'margin': 0.5,
  'mode': 'semi_hard',  # or 'batch_hard', 'all'
}


def get_config(arg: str = '') -> ConfigDict:
  variants = {'triplet': triplet, 'softmax': softmax}
  return scales.build(arg, METHOD, ADAPT, epochs={'imagenet': 35}, variants=variants)


def shapes(config: ConfigDict, epochs: int) -> None:
  """Triplets of four crops; ours."""
  del epochs
  triplet(config)


def cifar10_small(config: ConfigDict, epochs: int) -> None:
  """Patches of 24 of 32 pixels; ours."""
  del epochs
  _patches_of_24(config)


def cifar10(config: ConfigDict, epochs: int) -> None:
  """The same with the paper's SGD; its rate falls by 2.5 in steps that it does not give."""
  del epochs
  _patches_of_24(config)
  scales.sgd(config, base_lr=0.01, schedule='step', decay_at=(0.5, 0.75))


def imagenette(config: ConfigDict, epochs: int) -> None:
  """Patches of 64 of 128 pixels."""
  del epochs
  _whole_image(config, size=128)
  config.method.samples = 4
  config.method.changes.patch = 64
  scales.sgd(config, base_lr=0.01, schedule='step', decay_at=(0.5, 0.75))


def imagenette_small(config: ConfigDict, epochs: int) -> None:
  """Patches of 40 of 64 pixels."""
  del epochs
  _whole_image(config, size=64)
  config.method.samples = 4
  config.method.changes.patch = 40


def imagenet(config: ConfigDict, epochs: int) -> None:
  """Rate, decay and steps of Kolesnikov et al."""
  del epochs
  config.train.batch_size = 256
  scales.sgd(config, base_lr=0.1, schedule='step', decay_at=(0.5, 0.75))
  config.optim.update(decay_at=(15 / 35, 25 / 35), warmup='5 epochs')
  triplet(config)


def triplet(config: ConfigDict) -> None:
  """Random crops of every image, two of three of them gray, instead of changed patches."""
  low = 0.3 if config.views.view1.size <= 96 else 0.08
  scales.plain_view(config, crop_scale=(low, 1.0), crop_ratio=(3 / 4, 4 / 3), flip_prob=0.5)
  config.views.view1.repeat = 8 if config.encoder.name.startswith('resnet') else 4
  config.method.update(form='triplet', patches='views', gray_prob=0.66, standardize='tile')
  if config.encoder.name == 'small':
    config.method.projector = (128,)


def softmax(config: ConfigDict) -> None:
  """A class for each image, where a recipe has triplets: four changed patches of each.

  Of 24 of 32 pixels, and of half of a side from 128 pixels on, as on Imagenette.
  """
  method, size = config.method, config.views.view1.size
  if method.form == 'softmax':
    return
  method.update(form='softmax', patches='seeds', gray_prob=0.0, standardize='none')
  config.views.view1.repeat = 1
  _patches_of_24(config)
  if size >= 128:
    method.changes.patch = size // 2


def smoke(config: ConfigDict, epochs: int) -> None:
  """Small patches and few samples."""
  del epochs
  config.method.update(samples=2, projector=(32,))
  config.method.changes.patch = 20


def _patches_of_24(config: ConfigDict) -> None:
  _whole_image(config)
  config.method.samples = 4
  config.method.changes.patch = 24


def _whole_image(config: ConfigDict, **changes) -> None:
  """A view that is the same in every epoch, so that a patch is."""
  scales.plain_view(config, crop_scale=(1.0, 1.0), crop_ratio=(1.0, 1.0), flip_prob=0.0, **changes)


ADAPT = {
  'shapes': shapes,
  'cifar10': cifar10,
  'cifar10_small': cifar10_small,
  'imagenette': imagenette,
  'imagenette_small': imagenette_small,
  'folder_small': imagenette_small,
  'imagenet': imagenet,
  'smoke': smoke,
}
