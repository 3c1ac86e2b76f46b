"""A classifier of your own images, from a trained encoder and few labels.

    byoljax classify photos --labels=labels.csv --from=runs/byol
    byoljax classify photos --from=runs/byol --finetune        # the classes are folders of photos

Frozen features and, as head, logistic regression, or k-NN where cross-validation finds it better by
more than a standard error; with `--finetune` (`head=finetune`) the whole network is trained. What
`photos` holds beside the labelled images is classified. See docs/predict.md.
"""

from ml_collections import ConfigDict

from . import base, finetune


def get_config(arg: str = '') -> ConfigDict:
  options = [option for option in arg.split(',') if option]
  named = next((option for option in options if option in finetune.PROTOCOLS), 'small')
  config = ConfigDict(
    {
      'task': 'classify',
      'from': '',  # a run's workdir, or one of its checkpoints/<step>
      'network': 'online',  # or 'target'; baselines: 'random', 'random_rescaled', 'pixels'
      'tap': 'embedding',
      # A folder, with 'labels' or with a class folder for each class; or an .npz file.
      'data': {'dir': '', 'threads': 0},
      'labels': '',  # a table of files and classes, or a folder of class folders
      'image_size': 0,  # 0 = as in pretraining
      'batch_size': 128,  # does not change results
      'abstain': 0.0,  # below this probability no class is named
      'head': 'auto',  # or 'logistic', 'knn', 'finetune'
      # () = the grids of byoljax/protocols/classify.py
      'classify': {'lambdas': (), 'k': (), 'max_iterations': 1000},
      'finetune': finetune.PROTOCOLS[named],
      'log': {'every': '50 steps', 'tensorboard': False, 'csv': False, 'verbose': False},
    }
  )
  options = [option for option in options if option != named]
  if 'smoke' in options:
    options.remove('smoke')
    config.finetune.update(length='4 steps', batch_size=32)
    config.finetune.sweep.update(base_lr=(), length=(), weight_decay=())
  return base.finish(config, options, known=finetune.PROTOCOLS)
