"""FixMatch: few labels and many images (Sohn et al. 2020, arXiv 2001.07685).

    python -m byoljax.main --config=configs/fixmatch.py --config.data.labels=40
    python -m byoljax.main --config=configs/fixmatch.py:folder --config.data.dir=photos
    python -m byoljax.main --config=configs/fixmatch.py:cifar10 --config.init_from=runs/byol \\
      --config.encoder.name=resnet18 --config.encoder.stem=cifar

`data.labels` says which images have a label: so many in all ('40'), '10 per class', '1 %', '100 %'
of those that have one, or a file; `data.split_seed` draws them, as for fine-tuning. All images of
`pretrain` are the second stream: those, and what lies in a folder `unlabelled` or in
`data.unlabelled`. After the colon, a scale of `configs/scales.py`.

A batch is `unlabelled_per_labelled` images without a label to one with one: 448 and 64 in the
paper's CIFAR-10. The run's classifier, a moving average, is tested at the end ('own') and kept.

Published results (theirs, not ours): CIFAR-10, WRN-28-2, RandAugment: error of 13.81 % with 40
labels, 5.07 % with 250, 4.26 % with 4,000; ImageNet, ResNet-50, 10 % of the labels: 71.5 % top-1.
"""

from ml_collections import ConfigDict

from . import scales

METHOD = {
  'name': 'fixmatch',
  'threshold': 0.95,  # smallest probability of a class that counts as a label
  'weight': 1.0,  # of the loss of images without labels
  'tau': 0.999,  # weight of the old average of the weights
  'early': False,  # whether that is less in the first steps: min(tau, (1 + k) / (10 + k))
}
# As many steps as theirs, 2^20.
EPOCHS = {'cifar10': 9400, 'npz': 9400, 'imagenet': 300}


def get_config(arg: str = '') -> ConfigDict:
  config = scales.build(arg, METHOD, ADAPT, epochs=EPOCHS)
  config.probe.online = False  # It has a classifier of its own.
  return config


def shapes(config: ConfigDict, epochs: int) -> None:
  """Ours: shapes are told apart without RandAugment's turns and color, so that these do no harm."""
  del epochs
  config.data.labels = '20 per class'
  config.method.early = True
  _views(config, shift=0.125)
  _sgd(config, base_lr=0.1, weight_decay=5e-4)


def cifar10_small(config: ConfigDict, epochs: int) -> None:
  """The paper's recipe with the small encoder and a fourth of the batch; ours."""
  cifar10(config, epochs)
  config.train.batch_size = 128
  config.encoder.name = 'small'
  config.data.labels = '4000'
  config.method.early = True


def cifar10(config: ConfigDict, epochs: int) -> None:
  """The paper's: WRN-28-2, 64 and 448 images, shifts by an eighth."""
  del epochs
  config.data.labels = '250'
  config.encoder.name = 'wrn_28_2'
  config.train.batch_size = 512
  _views(config, shift=0.125)
  _sgd(config, base_lr=0.03, weight_decay=5e-4)
  _rarely(config)


def imagenette(config: ConfigDict, epochs: int) -> None:
  """Photographs: crops for shifts; ours."""
  del epochs
  config.data.labels = '10 %'
  config.method.early = True
  config.train.batch_size = 256
  _views(config, crop_scale=(0.4, 1.0), crop_ratio=(0.75, 4 / 3))
  _sgd(config, base_lr=0.03, weight_decay=5e-4)


def imagenette_small(config: ConfigDict, epochs: int) -> None:
  """The same with less in a batch."""
  imagenette(config, epochs)
  config.train.batch_size = 128


def folder(config: ConfigDict, epochs: int) -> None:
  """All labels that there are; the second stream has the images of `unlabelled`, too."""
  imagenette(config, epochs)
  config.data.labels = '100 %'


def folder_small(config: ConfigDict, epochs: int) -> None:
  """As `folder`, with less in a batch."""
  folder(config, epochs)
  config.train.batch_size = 128


def npz(config: ConfigDict, epochs: int) -> None:
  """As CIFAR-10, with all labels that there are."""
  cifar10(config, epochs)
  config.data.labels = '100 %'


def imagenet(config: ConfigDict, epochs: int) -> None:
  """The paper's share of labels, threshold, weight and streams; rates and crops are ours."""
  del epochs
  config.data.update(labels='10 %', unlabelled_per_labelled=5)
  config.method.update(threshold=0.7, weight=10.0)
  config.train.batch_size = 6144
  _views(config, crop_scale=(0.08, 1.0), crop_ratio=(0.75, 4 / 3))
  _sgd(config, base_lr=0.4, weight_decay=3e-4)
  config.optim.warmup = '5 epochs'
  _rarely(config)


def smoke(config: ConfigDict, epochs: int) -> None:
  """Fewer images of the second stream."""
  del epochs
  config.data.update(labels='2 per class', unlabelled_per_labelled=3)


def _views(config: ConfigDict, **weak) -> None:
  """A weak view, with these changes, and a strong one: RandAugment and a cutout on top."""
  whole = {'crop_scale': (1.0, 1.0), 'crop_ratio': (1.0, 1.0)}
  scales.plain_view(config, **(whole | weak))
  first = config.views.view1.to_dict()
  strong = {'randaugment_ops': 2, 'cutout_prob': 1.0, 'cutout_scale': (0.25, 0.25)}
  config.views.view2 = ConfigDict(first | strong)


def _sgd(config: ConfigDict, base_lr: float, weight_decay: float) -> None:
  """Theirs: Nesterov momentum, the first 7/8 of a quarter of a cosine, kernels alone decayed."""
  config.optim.update(
    name='sgd',
    base_lr=base_lr,
    lr_scaling='none',
    nesterov=True,
    weight_decay=weight_decay,
    schedule='cosine_7_16',
    warmup='0 epochs',
  )


def _rarely(config: ConfigDict) -> None:
  config.checkpoint.every = config.evals.knn.every = '1 %'


ADAPT = {
  'shapes': shapes,
  'cifar10': cifar10,
  'cifar10_small': cifar10_small,
  'imagenette': imagenette,
  'imagenette_small': imagenette_small,
  'imagenet': imagenet,
  'folder': folder,
  'folder_small': folder_small,
  'npz': npz,
  'smoke': smoke,
}
