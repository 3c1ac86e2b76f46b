"""Linear evaluation of a pretrained encoder on frozen features.

    python -m byoljax.main --config=configs/linear.py --config.pretrained=runs/byol
    python -m byoljax.main --config=configs/linear.py --config.pretrained=runs/byol/checkpoints/1240

    :byol_paper    the default: SGD, five learning rates side by side, the best on held-out images
    :byol_repo :simclr :moco :moco_v3 :moco_v3_vit :simsiam :barlow_twins :vicreg :swav :dino :mae
                   the probe of another paper: its optimizer, rate, length, initialization
    ...,quick      20 epochs of batch 256
    ...,smoke      seconds, to see that it runs

The encoder, the data and the normalization come from the pretrained run's own config.json; only the
protocol stands here. Every learning rate trains a head of its own in one pass, the best on held-out
training images is taken, and the test set is touched once. A protocol with a single rate trains on
all training images. All of them see random crops and flips, and test on center crops.

What the named protocols do not carry over: DINO's concatenation of four blocks' class tokens and
the ten-crop tests of older papers.
"""

from ml_collections import ConfigDict

from . import base

_PYTORCH = {
  'nesterov': False,
  'kernel_init': 'normal_0.01',
  'lr_update': 'epoch',
  'length': '100 epochs',
  'batch_size': 256,
  'lr_scaling': 'none',
  'exclude_bias_and_norm': False,
}
# Where their authors' code and paper differ, the code.
PROTOCOLS = {
  'byol_paper': {},
  'byol_repo': {'base_lr': (0.2,), 'batch_size': 4096, 'kernel_init': 'fan_in'},
  'simclr': {'base_lr': (0.1,), 'batch_size': 4096, 'length': '90 epochs'},
  'moco': _PYTORCH | {'base_lr': (30.0,), 'schedule': 'step', 'decay_at': (0.6, 0.8)},
  'moco_v3': _PYTORCH
  | {'base_lr': (0.1,), 'lr_scaling': 'linear', 'batch_size': 1024, 'length': '90 epochs'},
  'moco_v3_vit': _PYTORCH
  | {'base_lr': (3.0,), 'lr_scaling': 'linear', 'batch_size': 1024, 'length': '90 epochs'},
  'simsiam': _PYTORCH
  | {
    'name': 'larc',
    'base_lr': (0.1,),
    'lr_scaling': 'linear',
    'batch_size': 4096,
    'length': '90 epochs',
  },
  'barlow_twins': _PYTORCH | {'base_lr': (0.3,), 'weight_decay': 1e-6},
  'vicreg': _PYTORCH | {'base_lr': (0.02,), 'weight_decay': 1e-6},
  'swav': _PYTORCH | {'base_lr': (0.3,), 'weight_decay': 1e-6},
  'dino': _PYTORCH | {'base_lr': (0.001,), 'lr_scaling': 'linear', 'batch_size': 1024},
  'mae': {
    'name': 'lars',
    'nesterov': False,
    'base_lr': (0.1,),
    'batch_size': 16384,
    'length': '90 epochs',
    'warmup': '10 epochs',
    'kernel_init': 'normal_0.01',
    'norm': True,
  },
}


def get_config(arg: str = '') -> ConfigDict:
  options = [option for option in arg.split(',') if option]
  named = next((option for option in options if option in PROTOCOLS), 'byol_paper')
  config = ConfigDict(
    {
      'task': 'linear',
      'pretrained': '',  # a run's workdir, or one of its checkpoints/<step>
      'network': 'online',  # or 'target'; baselines: 'random', 'random_rescaled', 'pixels'
      'tap': 'embedding',  # or 'projection', 'prediction', an inner layer: see configs/taps.py
      # '' and () mean: as in pretraining.
      'data': {'name': '', 'dir': '', 'threads': 0},
      'image_size': 0,  # 0 = as in pretraining
      'linear': base.linear_protocol(protocol=named, **PROTOCOLS[named]),
      'log': {'every': '50 steps', 'tensorboard': True, 'csv': False, 'verbose': False},
    }
  )
  options = [option for option in options if option != named]
  if 'quick' in options:
    options.remove('quick')
    config.linear.update(protocol=f'{named}, quick', length='20 epochs', batch_size=256)
  if 'smoke' in options:
    options.remove('smoke')
    config.linear.update(length='4 steps', batch_size=64, warmup='1 steps')
  return base.finish(config, options, known=[*PROTOCOLS, 'quick'])
