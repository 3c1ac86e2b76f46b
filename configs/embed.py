"""Features of every image of a data set, in files.

    python -m byoljax.main --config=configs/embed.py --config.pretrained=runs/byol
    python -m byoljax.main --config=configs/embed.py --config.pretrained=runs/byol \\
      --config.data.name=folder --config.data.dir=photos --config.format=csv

writes runs/byol/embeddings/<data>-<split>, or --workdir: `index.json` and one part after the other.
Started again, it resumes after the last part. `byoljax search` finds images in it.
"""

from ml_collections import ConfigDict

from . import base


def get_config(arg: str = '') -> ConfigDict:
  config = ConfigDict(
    {
      'task': 'embed',
      'pretrained': '',  # a run's workdir, or one of its checkpoints/<step>
      'network': 'online',  # or 'target'; baselines: 'random', 'random_rescaled', 'pixels'
      'tap': 'embedding',  # or 'projection', 'prediction', an inner map: 'stem', 'stage1', ...
      # '' means: as in pretraining.
      'data': {'name': '', 'dir': '', 'threads': 0},
      'split': 'train',  # or 'test'; 'pretrain' adds the images without labels
      'image_size': 0,  # 0 = as in pretraining
      'batch_size': 512,
      'format': 'npz',  # or 'csv', 'parquet'
      'part_size': 10000,  # images per file
      'log': {'verbose': False},
    }
  )
  return base.finish(config, [option for option in arg.split(',') if option])
