"""GEOM: which of 72 geometric transforms was it? (Golan and El-Yaniv 2018, arXiv 1805.10917).

    python -m byoljax.main --config=configs/geometric.py

trains on the built-in shapes, minutes on a CPU. After the colon, a scale of `configs/scales.py`.
For anomalies, train on one class and ask how normal all others look:

    byoljax pretrain geometric --data.classes='(3,)' --workdir=runs/geometric
    byoljax anomaly runs/geometric

Published result (theirs, not ours): one class of CIFAR-10 against the others, mean over ten
classes, WRN-10-4: AUROC 0.86.
"""

from ml_collections import ConfigDict

from . import scales

METHOD = {
  'name': 'geometric',
  'per_image': 1,  # transforms of an image in a batch; all different, at most 72
  'shift': 0.25,  # of the side of the image
  'hidden': (),  # widths of layers under the classifier
}


def get_config(arg: str = '') -> ConfigDict:
  return scales.build(arg, METHOD, ADAPT, epochs={'cifar10': 216})


def shapes(config: ConfigDict, epochs: int) -> None:
  """Whole images; four transforms of each in a batch, which reads fewer images; ours."""
  del epochs
  whole(config)
  config.method.per_image = 4


def cifar10(config: ConfigDict, epochs: int) -> None:
  """The authors' network, Adam and batch; 216 epochs are as many steps as their 3.

  Without the L2 penalty of 0.00025 that their network has.
  """
  del epochs
  whole(config)
  config.encoder.name = 'wrn_10_4'
  config.train.batch_size = 128
  config.optim.update(
    name='adamw',
    base_lr=1e-3,
    lr_scaling='none',
    weight_decay=0.0,
    schedule='constant',
    warmup='0 epochs',
  )


def whole(config: ConfigDict) -> None:
  """One view, the whole image as it is."""
  scales.plain_view(config, crop_scale=(1.0, 1.0), crop_ratio=(1.0, 1.0), flip_prob=0.0)


def photographs(config: ConfigDict, epochs: int) -> None:
  """As CIFAR-10, with the scale's own network."""
  name = config.encoder.name
  cifar10(config, epochs)
  config.encoder.name = name


ADAPT = {
  'shapes': shapes,
  'cifar10': cifar10,
  'cifar10_small': shapes,
  'imagenette': photographs,
  'imagenet': photographs,
}
