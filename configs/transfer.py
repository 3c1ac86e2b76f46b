"""The transfer table: one encoder on many data sets, with frozen features and fine-tuned.

    python -m byoljax.main --config=configs/transfer.py --config.pretrained=runs/byol \
      --config.datasets=cifar10,dtd,tfds:beans,folder=photos

    :logistic     the default: L-BFGS over 45 regularizations on frozen features
    :finetune     the whole network as well, 20,000 steps, 49 settings (SimCLR, BYOL)
    :small        k-NN, logistic regression over 12 regularizations, and a short fine-tuning; masks,
                  depth and boxes, where they are asked for, as in the recipes of this name
    ...,smoke     seconds, to see that it runs

Columns are evaluations of classes (knn, logistic, linear, finetune), masks (segment), depth and
boxes (detect). Each takes all data sets that have what it needs, or those of its own:

    ... --config.protocols=logistic,segment,detect --config.reads.segment.datasets=pets,sprites

A data set is a name of `byoljax.data.sources.datasets`, `tfds:NAME`, or NAME=DIRECTORY, such as
`folder=DIRECTORY` and `npz=FILE`. Classes have the metric of their data set: top-1, the mean of the
classes' accuracies, or VOC 2007's eleven-point mean average precision; masks have mean IoU, depth
rms, boxes AP. Sets that are not there are skipped, with the command that prepares them. A random
encoder stands beside the run's. Started again, it resumes.

The encoder and the normalization come from the pretrained run's own config.json.
"""

from ml_collections import ConfigDict

from . import base, depth, detect, finetune, frozen, segment

# Twelve data sets of the literature (Kornblith et al., arXiv 1805.08974), of which TFDS has these.
TWELVE = (
  'food101', 'cifar10', 'cifar100', 'sun397', 'cars', 'voc2007', 'dtd', 'pets', 'caltech101',
  'flowers102',
)  # fmt: skip

EVALUATIONS = ('knn', 'logistic', 'linear', 'finetune', 'segment', 'depth', 'detect')


def get_config(arg: str = '') -> ConfigDict:
  options = [option for option in arg.split(',') if option]
  config = ConfigDict(
    {
      'task': 'transfer',
      'pretrained': '',  # a run's workdir, or one of its checkpoints/<step>
      'network': 'online',  # or 'target'; baselines: 'random', 'pixels'
      'baselines': True,  # also evaluate a random encoder
      'datasets': TWELVE,
      'protocols': ('logistic',),  # any of EVALUATIONS
      'mode': 'finetuned',  # or 'frozen': the encoder under 'segment' and 'depth'
      # What each of them reads: 'all' stands for `datasets`, 0 for `image_size`.
      'reads': {
        name: {'datasets': ('all',), 'image_size': _IMAGE_SIZES.get(name, 0)}
        for name in EVALUATIONS
      },
      'data': {'dir': '', 'threads': 0},  # of TFDS sets; '' = as TFDS finds them
      'image_size': 0,  # 0 = as in pretraining; 224 in the literature
      'batch_size': 512,  # for features
      'whole_batch_size': 16,  # for whole images with masks or depth; does not change results
      'knn': {'k': (20, 200), 'temperature': (0.1,)},
      'logistic': frozen.PROTOCOLS['logistic'],
      'linear': base.linear_protocol(),
      'finetune': finetune.PROTOCOLS['transfer'],
      'segment': segment.PROTOCOLS['byol'],
      'depth': depth.PROTOCOLS['byol'],
      'detect': detect.PROTOCOLS['voc'],
      'log': {'every': '50 steps', 'tensorboard': False, 'csv': False, 'verbose': False},
    }
  )
  for option in [option for option in options if option in VARIANTS]:
    options.remove(option)
    VARIANTS[option](config)
  return base.finish(config, options, known=[*VARIANTS])


# Of the protocols of the literature.
_IMAGE_SIZES = {'segment': segment.IMAGE_SIZES['byol'], 'depth': depth.IMAGE_SIZE}
# Those that train more than a classifier.
_RECIPES = {'finetune': finetune, 'segment': segment, 'depth': depth, 'detect': detect}


def _finetune(config: ConfigDict) -> None:
  config.protocols = ('logistic', 'finetune')


def _small(config: ConfigDict) -> None:
  config.protocols = ('knn', 'logistic', 'finetune')
  config.logistic.lambdas = tuple(float(f'1e{power}') for power in range(-6, 6))
  for name, recipe in _RECIPES.items():
    config[name] = ConfigDict(recipe.PROTOCOLS['small'])
    config.reads[name].image_size = 0


def _smoke(config: ConfigDict) -> None:
  _small(config)
  config.logistic.update(lambdas=(0.1, 10.0), max_iterations=20)
  for name in _RECIPES:
    config[name].update(length='4 steps', batch_size=16)
    config[name].optim.warmup = '0 epochs'
  config.finetune.sweep.update(base_lr=(), length=(), weight_decay=())
  config.segment.sweep = config.depth.sweep = ()


VARIANTS = {
  'logistic': lambda config: None,
  'finetune': _finetune,
  'small': _small,
  'smoke': _smoke,
}
