"""Linear evaluation of a pretrained encoder on frozen features.

    python -m byoljax.main --config=configs/linear.py --config.pretrained=runs/byol
    python -m byoljax.main --config=configs/linear.py --config.pretrained=runs/byol/checkpoints/1240

The encoder, the data and the normalisation come from the pretrained run's own config.json; only the
protocol stands here. Every learning rate trains a head of its own in one pass, the best on held-out
training images is taken, and the test set is touched once.
"""

from ml_collections import ConfigDict

from configs import base


def get_config(arg: str = '') -> ConfigDict:
  options = [option for option in arg.split(',') if option]
  config = ConfigDict(
    {
      'task': 'linear',
      'pretrained': '',  # a run's workdir, or one of its checkpoints/<step>
      'network': 'online',  # or 'target'; baselines: 'random', 'pixels'
      # '' and () mean: as in pretraining.
      'data': {'name': '', 'dir': '', 'threads': 0},
      'image_size': 0,  # 0 = as in pretraining
      'linear': base.linear_protocol(),
      'log': {'every': '50 steps', 'tensorboard': True, 'csv': False, 'verbose': False},
    }
  )
  if 'quick' in options:
    options.remove('quick')
    config.linear.update(length='20 epochs', batch_size=256)
  if 'smoke' in options:
    options.remove('smoke')
    config.linear.update(length='4 steps', batch_size=64)
  return base.finish(config, options, known=['quick'])
