"""k-NN evaluation of a pretrained encoder: cosine similarity, un-augmented features.

    python -m byoljax.main --config=configs/knn.py --config.pretrained=runs/byol

The encoder, the data and the normalization come from the pretrained run's own config.json.
"""

from ml_collections import ConfigDict

from . import base


def get_config(arg: str = '') -> ConfigDict:
  config = ConfigDict(
    {
      'task': 'knn',
      'pretrained': '',  # a run's workdir, or one of its checkpoints/<step>
      'network': 'online',  # or 'target'; baselines: 'random', 'random_rescaled', 'pixels'
      'tap': 'embedding',  # or 'projection', 'prediction', an inner map: 'stem', 'stage1', ...
      # '' means: as in pretraining.
      'data': {'name': '', 'dir': '', 'threads': 0},
      'image_size': 0,  # 0 = as in pretraining
      'batch_size': 512,
      'knn': {
        'k': (1, 5, 10, 20, 50, 100, 200),
        'temperature': (0.07, 0.1, 0.2),
      },
      'log': {'verbose': False},
    }
  )
  return base.finish(config, [option for option in arg.split(',') if option])
