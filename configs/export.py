"""A trained encoder as a folder for other libraries: safetensors, StableHLO, a model card.

    python -m byoljax.main --config=configs/export.py --config.pretrained=runs/byol

writes runs/byol/export, or --workdir. See `byoljax/weights/exporting.py` for what is in it.
"""

from ml_collections import ConfigDict

from . import base


def get_config(arg: str = '') -> ConfigDict:
  config = ConfigDict(
    {
      'task': 'export',
      # A run's workdir, or one of its checkpoints/<step>; or a classifier's directory.
      'pretrained': '',
      'network': 'online',  # or 'target'
      'log': {'verbose': False},
    }
  )
  return base.finish(config, [option for option in arg.split(',') if option])
