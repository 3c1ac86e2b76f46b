"""Data, encoder, length and evaluation at every scale: what recipes of different methods share.

`build` puts a recipe together: the shared fields, the scale's, the method's own at that scale, then
what is named after the scale. A recipe's part after the colon is

    [scale][,epochs][,variant ...][,smoke]

    shapes          the built-in images, a small encoder, minutes on two CPU cores (the default)
    cifar10         ResNet-18, as solo-learn's recipes
    cifar10_small   CIFAR-10 with the small encoder, for computers without a GPU
    imagenette      ResNet-18 at 128 px
    imagenette_small  Imagenette at 64 px with the small encoder, without a GPU
    imagenet        ResNet-50 at 224 px
    folder          your photographs: --config.data.dir=photos
    folder_small    the same at 64 px with the small encoder, without a GPU
    npz             arrays, without TensorFlow: --config.data.dir=images.npz

Scales with a ResNet are for accelerators: `encoder.dtype` is 'auto' there, see `configs/base.py`.
"""

from collections.abc import Callable, Mapping

from ml_collections import ConfigDict

from . import base

Adapt = Callable[[ConfigDict, int], None]
"""(configuration of the scale, epochs): sets what is the method's own, in place."""

# Learning rates of linear heads on small encoders, per 256 examples; raw pixels need low ones.
WIDE_SWEEP = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)


def build(
  arg: str,
  method: Mapping,
  adapt: Mapping[str, Adapt],
  *,
  epochs: Mapping[str, int] | None = None,
  variants: Mapping[str, Callable[[ConfigDict], None]] | None = None,
) -> ConfigDict:
  """A recipe at the scale that `arg` names.

  Args:
    arg: the part of the recipe's name after the colon.
    method: fields of `config.method` with the paper's values, 'name' among them.
    adapt: scale -> what the method changes there; a scale that is absent changes nothing. 'smoke':
      what it changes further where `smoke` is asked for.
    epochs: default lengths that differ from `EPOCHS`.
    variants: further options: name -> change of the finished recipe.

  Raises:
    ValueError: an unknown option, or a number of epochs that there is no recipe for.
  """
  variants = dict(variants or {})
  options = [option for option in arg.split(',') if option]
  config = base.get_config()
  config.method = ConfigDict(dict(method) | base.AUXILIARY)
  scale = next((option for option in options if option in SCALES), 'shapes')
  options = [option for option in options if option != scale]
  length = {**EPOCHS, **(epochs or {})}[scale]
  if options and options[0].isdigit():
    length = int(options.pop(0))
  config.train.length = f'{length} epochs'
  SCALES[scale](config)
  own = adapt.get(scale, adapt.get(RELATED.get(scale, '')))
  if own is not None:
    own(config, length)
  for option in [option for option in options if option in variants]:
    options.remove(option)
    variants[option](config)
  base.finish(config, options, known=[*SCALES, *variants])
  if 'smoke' in options and 'smoke' in adapt:
    adapt['smoke'](config, length)
  return config


def preset(table: Mapping[int, tuple], epochs: int) -> tuple:
  """The row of `table` for this many epochs; ValueError names those that there are."""
  if epochs not in table:
    nearest = min(table, key=lambda length: abs(length - epochs))
    raise ValueError(
      f'there is no preset of {epochs} epochs, only {", ".join(map(str, table))}: '
      f'take imagenet,{nearest} and set --config.train.length.'
    )
  return table[epochs]


def shapes(config: ConfigDict) -> None:
  """The built-in images, a small encoder, minutes on two CPU cores.

  AdamW with small batches did best among what was tried for BYOL at this size; strong color jitter
  matters most: color is what the pictures differ in and what the classes do not depend on. Views
  of 24 px take little more than half the time, and crops of at least half of the area keep the
  shape in sight (experiments/shapes_family).
  """
  config.train.batch_size = 64
  config.data.update(name='shapes', mean=(0.5, 0.5, 0.5), std=(0.272, 0.272, 0.272))
  two_views(config, 24, blur=(0.0, 0.0), solarize=(0.0, 0.2), crop_scale=(0.5, 1.0),
            saturation=0.8, hue=0.5, gray_prob=0.5)  # fmt: skip
  config.encoder.update(name='small', stem='cifar')
  config.optim.update(name='adamw', base_lr=8e-3, warmup='1 epochs', weight_decay=1e-2)
  config.evals.update(image_size=32, batch_size=256, final=True)
  config.evals.knn.every = '10 epochs'
  config.evals.linear.update(
    length='15 epochs', batch_size=256, crop_scale=(0.5, 1.0), base_lr=WIDE_SWEEP
  )
  config.checkpoint.every = '10 epochs'
  config.log.every = '50 steps'


def cifar10(config: ConfigDict) -> None:
  """ResNet-18 with the CIFAR stem, as in solo-learn's recipes: their LARS, no blur."""
  config.train.batch_size = 256
  config.data.update(name='cifar10', mean=base.CIFAR10_MEAN, std=base.CIFAR10_STD)
  two_views(config, 32, blur=(0.0, 0.0), solarize=(0.0, 0.2))
  operators(config, 'torchvision')
  config.encoder.update(name='resnet18', stem='cifar', dtype='auto')
  config.optim.update(name='larc_clip', base_lr=0.3, weight_decay=1e-4, trust_coefficient=0.02)
  config.evals.update(image_size=32, final=True)
  config.evals.linear.update(length='100 epochs', batch_size=256)


def cifar10_small(config: ConfigDict) -> None:
  """CIFAR-10 for a computer without a GPU: the small encoder."""
  cifar10(config)
  operators(config, 'byol')
  for view in config.views.values():
    view.crop_scale = (0.2, 1.0)
  config.encoder.update(name='small', dtype='float32')
  config.optim.update(
    name='adamw', base_lr=2e-3, warmup='2 epochs', weight_decay=1e-4, trust_coefficient=0.001
  )
  config.evals.knn.max_bank = 10000
  config.evals.linear.update(length='20 epochs', crop_scale=(0.2, 1.0), base_lr=WIDE_SWEEP)


def imagenette(config: ConfigDict) -> None:
  """ResNet-18 at 128 px: the quick set-up of BYOL's repository."""
  config.train.batch_size = 256
  config.data.name = 'imagenette'
  two_views(config, 128)
  config.encoder.update(name='resnet18', dtype='auto')
  config.optim.base_lr = 2.0
  config.evals.update(image_size=128, batch_size=256, final=True)
  config.evals.linear.batch_size = 256
  config.checkpoint.every = config.evals.knn.every = '20 epochs'


def imagenette_small(config: ConfigDict) -> None:
  """Imagenette at 64 px for a computer without a GPU: CIFAR-10's small recipe on photographs."""
  cifar10_small(config)
  config.data.update(name='imagenette', mean=base.IMAGENET_MEAN, std=base.IMAGENET_STD)
  for view in config.views.values():
    view.size = 64
  config.train.batch_size = 128
  config.evals.image_size = 64
  config.evals.linear.batch_size = 128
  config.checkpoint.every = config.evals.knn.every = '5 epochs'


def imagenet(config: ConfigDict) -> None:
  """ResNet-50 at 224 px, batch 4096."""
  config.train.batch_size = 4096
  config.encoder.dtype = 'auto'


def folder(config: ConfigDict) -> None:
  """Any folder of photographs, with or without class sub-folders: ResNet-18 at 128 px."""
  imagenette(config)
  config.data.name = 'folder'
  config.optim.base_lr = 1.0
  config.checkpoint.every = config.evals.knn.every = '10 epochs'


def folder_small(config: ConfigDict) -> None:
  """A folder of photographs at 64 px, for a computer without a GPU."""
  imagenette_small(config)
  config.data.name = 'folder'


def npz(config: ConfigDict) -> None:
  """Arrays in an .npz file, 32 px: CIFAR-10's recipe, without TensorFlow."""
  cifar10(config)
  config.data.name = 'npz'


def two_views(
  config: ConfigDict,
  size: int,
  *,
  blur: tuple[float, float] = (1.0, 0.1),
  solarize: tuple[float, float] = (0.0, 0.2),
  **changes,
) -> None:
  """BYOL's two views at `size` pixels, with changes that both share."""
  config.views = ConfigDict(
    {
      f'view{number + 1}': base.view(
        size=size, blur_prob=blur[number], solarize_prob=solarize[number], **changes
      )
      for number in (0, 1)
    }
  )


def plain_view(config: ConfigDict, **changes) -> None:
  """One view as large as evaluated images, cropped and flipped and nothing else; with changes."""
  off = {f'{name}_prob': 0.0 for name in ('jitter', 'gray', 'blur', 'solarize')}
  one_view(config, **({'size': config.evals.image_size} | off | changes))


def reconstructed_view(config: ConfigDict, **changes) -> None:
  """One view without changes of color, that is given back; five checkpoints for the report."""
  plain_view(config, **changes)
  config.checkpoint.update(every='20 %', keep=5)


def whole_images(config: ConfigDict, size: int) -> None:
  """One view, mirrored and never cropped: a part made larger is smoother than any image is."""
  reconstructed_view(config, size=size, crop_scale=(1.0, 1.0), crop_ratio=(1.0, 1.0))
  config.evals.image_size = size


def operators(config: ConfigDict, family: str, resize: str = 'bicubic') -> None:
  """Whose image operators all views use: those of the method's authors at the large scales.

  The scales that need no GPU, and the built-in images, keep BYOL's for every method.
  """
  for view in config.views.values():
    view.update(operators=family, resize=resize)


def alike(config: ConfigDict, **changes) -> None:
  """Gives the first two views the same settings: those of the first, with changes."""
  view = config.views.view1.to_dict() | {'solarize_prob': 0.0} | changes
  config.views.view1, config.views.view2 = ConfigDict(view), ConfigDict(view)


def one_view(config: ConfigDict, **changes) -> None:
  """The first view alone, with changes."""
  config.views = ConfigDict({'view1': config.views.view1.to_dict() | changes})


def sgd(config: ConfigDict, base_lr: float, weight_decay: float = 1e-4, **changes) -> None:
  """SGD as in PyTorch recipes, with changes.

  All parameters are decayed, there is no warm-up, and the rate moves once an epoch.
  """
  fields = {'warmup': '0 epochs', 'lr_update': 'epoch', 'exclude_bias_and_norm': False} | changes
  config.optim.update(name='sgd', base_lr=base_lr, weight_decay=weight_decay, **fields)


def small_crops(
  config: ConfigDict, count: int, size: int, crop_scale: tuple[float, float], **changes
) -> None:
  """Adds `count` more views like the first one, smaller and of smaller parts (multi-crop).

  A size of 0 is the share `size_share` of the first view's, whatever that is. For the small encoder
  not 16 px: XLA's CPU convolutions are ten times slower on its last, 2x2 map.
  """
  view = config.views.view1.to_dict()
  view |= {'size': size, 'crop_scale': crop_scale, 'repeat': count} | changes
  config.views.view3 = ConfigDict(view)


SCALES: dict[str, Callable[[ConfigDict], None]] = {
  'shapes': shapes,
  'cifar10': cifar10,
  'cifar10_small': cifar10_small,
  'imagenette': imagenette,
  'imagenette_small': imagenette_small,
  'imagenet': imagenet,
  'folder': folder,
  'folder_small': folder_small,
  'npz': npz,
}
EPOCHS = {
  'shapes': 30,
  'cifar10': 200,
  'cifar10_small': 40,
  'imagenette': 200,
  'imagenette_small': 40,
  'imagenet': 100,
  'folder': 200,
  'folder_small': 40,
  'npz': 200,
}
# Where a method says nothing for a scale, it does what it does at a scale like it.
RELATED = {
  'npz': 'cifar10',
  'folder': 'imagenette',
  'imagenette_small': 'cifar10_small',
  'folder_small': 'cifar10_small',
}
