"""Evaluations of frozen, un-augmented features; the part after the colon says which.

    python -m byoljax.main --config=configs/frozen.py:logistic --config.pretrained=runs/byol

    :logistic    multinomial logistic regression by L-BFGS over 45 regularizations: the transfer
                 protocol of SimCLR and BYOL
    :svm         a linear support vector machine for each class: the protocol of VOC 2007
    :few_labels  logistic regression, or support vector machines, on 1 % and 10 % of the labels and
                 on a few per class, several draws
    :anomaly     one class normal, the others not: AUROC of the distance to the normal images,
                 and of how well the network tells transforms apart, where that was its task
    :retrieval   every image looks for others of its class: mean average precision, recall@k

The encoder, the data and the normalization come from the pretrained run's own config.json; with
`--config.data.name=...` another data set is classified.
"""

from ml_collections import ConfigDict

from . import base

PROTOCOLS = {
  'logistic': {
    'lambdas': (),  # () = 45 values from 1e-6 to 1e5
    'held_out': 0.1,  # share of the training images that chooses among them
    'max_iterations': 1000,
    'seed': 0,
  },
  'svm': {
    'costs': (),  # () = the paper's 26 values from 2^-19 to 100
    'parts': 3,  # of the training images, in the cross-validation that chooses among them
    'positive_weight': 2.0,  # of a class's own images
    'max_iterations': 2000,
    'seed': 0,
  },
  'few_labels': {
    'classifier': 'logistic',  # or 'svm': low-shot support vector machines, shots only
    'shots': (1, 5, 20),  # images per class
    'shares': (0.01, 0.1),  # of the training images
    'draws': 5,
    'regularization': 0.01,  # lambda, of features whose mean squared distance from their mean is 1
    'cost': 0.5,  # of support vector machines
    'seed': 0,
  },
  'anomaly': {'neighbors': 2},
  'retrieval': {'gallery': 'queries'},  # each other query; or 'train', the training images
}


def get_config(arg: str = '') -> ConfigDict:
  options = [option for option in arg.split(',') if option]
  named = [option for option in options if option in PROTOCOLS]
  which = named[0] if named else 'logistic'
  config = ConfigDict(
    {
      'task': which,
      'pretrained': '',  # a run's workdir, or one of its checkpoints/<step>
      'network': 'online',  # or 'target'; baselines: 'random', 'random_rescaled', 'pixels'
      'tap': 'embedding',  # or 'projection', 'prediction', an inner map: 'stem', 'stage1', ...
      # '' means: as in pretraining.
      'data': {'name': '', 'dir': '', 'threads': 0},
      'image_size': 0,  # 0 = as in pretraining
      'batch_size': 512,
      which: PROTOCOLS[which],
      'log': {'verbose': False},
    }
  )
  return base.finish(config, [option for option in options if option != which], known=PROTOCOLS)
