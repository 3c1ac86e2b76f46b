"""Triplet loss between images (Schroff et al. 2015, arXiv 1503.03832; for exemplars, 1901.09005).

    python -m byoljax.main --config=configs/triplet.py

trains on the built-in shapes, minutes on a CPU. After a colon, a scale of `configs/scales.py`; at
`:imagenet` there are 8 views of every image, as in the scaled-up exemplar task.

No result is quoted: the published ones are for other encoders and targets.
"""

from ml_collections import ConfigDict

from . import scales

METHOD = {
  'name': 'triplet',
  'projector': (128,),  # a linear layer
  'margin': 0.2,  # in squared distance, 0 to 4
  'mode': 'semi_hard',  # or 'batch_hard', 'all'
}


def get_config(arg: str = '') -> ConfigDict:
  return scales.build(arg, METHOD, ADAPT, epochs={'imagenet': 35})


def shapes(config: ConfigDict, epochs: int) -> None:
  """A hidden layer."""
  del epochs
  config.method.projector = (512, 128)


def cifar10(config: ConfigDict, epochs: int) -> None:
  """A hidden layer and plain SGD; ours."""
  del epochs
  config.method.projector = (512, 128)
  config.optim.update(name='sgd', base_lr=0.1, weight_decay=1e-4)


def imagenet(config: ConfigDict, epochs: int) -> None:
  """Schedule, margin and number of views of the scaled-up exemplar task; batch size ours."""
  del epochs
  config.train.batch_size = 256
  scales.one_view(config, repeat=8)
  config.method.update(projector=(1000,), margin=0.5)
  config.optim.update(
    name='sgd',
    base_lr=0.1,
    weight_decay=1e-4,
    warmup='5 epochs',
    schedule='step',
    decay_at=(15 / 35, 25 / 35),
  )


def smoke(config: ConfigDict, epochs: int) -> None:
  """A narrower projection."""
  del epochs
  config.method.projector = (64,)


ADAPT = {
  'shapes': shapes,
  'cifar10': cifar10,
  'cifar10_small': shapes,
  'imagenette': cifar10,
  'imagenet': imagenet,
  'smoke': smoke,
}
