"""The transfer table: one encoder on many data sets, with frozen features and fine-tuned.

    python -m byoljax.main --config=configs/transfer.py --config.pretrained=runs/byol \
      --config.datasets=cifar10,dtd,tfds:beans,folder=photos

    :logistic     the default: L-BFGS over 45 regularizations on frozen features
    :finetune     the whole network as well, 20,000 steps, 49 settings (SimCLR, BYOL)
    :small        k-NN, logistic regression over 12 regularizations, and a short fine-tuning
    ...,smoke     seconds, to see that it runs

A data set is a name of `byoljax.data.sources.datasets`, `tfds:NAME`, or `folder=DIRECTORY` and
`npz=FILE`. Each has its own metric: top-1, the mean of the classes' accuracies, or VOC 2007's
eleven-point mean average precision. Sets that are not there are skipped, with the command that
prepares them. A random encoder stands beside the run's. Started again, it resumes.

The encoder and the normalization come from the pretrained run's own config.json.
"""

from ml_collections import ConfigDict

from . import base, finetune, frozen

# Twelve data sets of the literature (Kornblith et al., arXiv 1805.08974), of which TFDS has these.
TWELVE = (
  'food101', 'cifar10', 'cifar100', 'sun397', 'cars', 'voc2007', 'dtd', 'pets', 'caltech101',
  'flowers102',
)  # fmt: skip


def get_config(arg: str = '') -> ConfigDict:
  options = [option for option in arg.split(',') if option]
  config = ConfigDict(
    {
      'task': 'transfer',
      'pretrained': '',  # a run's workdir, or one of its checkpoints/<step>
      'network': 'online',  # or 'target'; baselines: 'random', 'pixels'
      'baselines': True,  # a random encoder beside it
      'datasets': TWELVE,
      'protocols': ('logistic',),  # and 'knn', 'linear', 'finetune'
      'data': {'dir': '', 'threads': 0},  # of TFDS sets; '' = as TFDS finds them
      'image_size': 0,  # 0 = as in pretraining; 224 in the literature
      'batch_size': 512,
      'knn': {'k': (20, 200), 'temperature': (0.1,)},
      'logistic': frozen.PROTOCOLS['logistic'],
      'linear': base.linear_protocol(),
      'finetune': finetune.PROTOCOLS['transfer'],
      'log': {'every': '50 steps', 'tensorboard': False, 'csv': False, 'verbose': False},
    }
  )
  for option in [option for option in options if option in VARIANTS]:
    options.remove(option)
    VARIANTS[option](config)
  return base.finish(config, options, known=[*VARIANTS])


def _finetune(config: ConfigDict) -> None:
  config.protocols = ('logistic', 'finetune')


def _small(config: ConfigDict) -> None:
  config.protocols = ('knn', 'logistic', 'finetune')
  config.logistic.lambdas = tuple(float(f'1e{power}') for power in range(-6, 6))
  config.finetune = ConfigDict(finetune.PROTOCOLS['small'])


def _smoke(config: ConfigDict) -> None:
  config.update(protocols=('knn', 'logistic', 'finetune'))
  config.logistic.update(lambdas=(0.1, 10.0), max_iterations=20)
  config.finetune = ConfigDict(finetune.PROTOCOLS['small'])
  config.finetune.update(length='4 steps', batch_size=32)
  config.finetune.sweep.update(base_lr=(), length=(), weight_decay=())


VARIANTS = {
  'logistic': lambda config: None,
  'finetune': _finetune,
  'small': _small,
  'smoke': _smoke,
}
