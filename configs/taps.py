"""Several taps of a run side by side; the part after the colon says what is looked at.

    python -m byoljax.main --config=configs/taps.py:layers --config.pretrained=runs/byol

    :layers       k-NN, or linear classifiers, from the pixels to the prediction, layer by layer
    :hypersphere  alignment and uniformity of h, z and p
    :collapse     spread, effective rank, dead dimensions and spectrum of h, z and p

A tap is a place where the network is read out, in the order in which it computes: inner maps
('stem', 'stage1', ..., of vision transformers 'tokens1', ...), 'embedding', then the run's heads
('projector/hidden1', 'projection', 'predictor/hidden1', 'prediction') as far as the network has
them: a target has no predictor. Maps are averaged over height and width; of tokens the class token
is taken, or the patches' mean where the encoder does that. The last map of a ResNet, averaged, is
the embedding.
"""

from ml_collections import ConfigDict

from . import base

WHAT = {
  'layers': {
    'logistic': False,  # logistic regression on every tap, too: minutes
    'lambdas': (),  # its regularizations; () = 45 values from 1e-6 to 1e5
    # Of --probe=linear: maps are pooled to a grid of about so many values.
    'dimensions': 9216,
    'pool': 'mean',  # or 'max'
  },
  'hypersphere': {
    'alpha': 2.0,  # power of the distance between two views
    't': 2.0,  # of the Gaussian potential between two images
    'seed': 0,  # of the views
  },
  'collapse': {},
}


# Goyal et al. (arXiv 1905.01235), whose rate is for 256 examples.
LINEAR = {
  'protocol': 'layers',
  'length': '28 epochs',
  'batch_size': 256,
  'base_lr': (0.01,),
  'nesterov': False,
  'schedule': 'step',
  'decay_at': (8 / 28, 16 / 28, 24 / 28),
  'lr_update': 'epoch',
  'weight_decay': 5e-4,
  'kernel_init': 'normal_0.01',
  'norm': True,
}


def get_config(arg: str = '') -> ConfigDict:
  options = [option for option in arg.split(',') if option]
  named = [option for option in options if option in WHAT]
  which = named[0] if named else 'layers'
  config = ConfigDict(
    {
      'task': which,
      'pretrained': '',  # a run's workdir, or one of its checkpoints/<step>
      'network': 'online',  # or 'target'; baselines: 'random', 'random_rescaled', 'pixels'
      'taps': (),  # () = all for layers, h, z and p for the others
      # '' means: as in pretraining.
      'data': {'name': '', 'dir': '', 'threads': 0},
      'image_size': 0,  # 0 = as in pretraining
      'batch_size': 512,
      which: WHAT[which],
      'log': {'every': '50 steps', 'tensorboard': True, 'csv': False, 'verbose': False},
    }
  )
  if which == 'layers':
    config.probe = 'knn'  # or 'linear': a linear classifier on every tap, all trained in one pass
    config.linear = base.linear_protocol(**LINEAR)
  else:
    config.split = 'test'  # or 'train', 'pretrain'; labels are not needed
  return base.finish(config, [option for option in options if option != which], known=WHAT)
