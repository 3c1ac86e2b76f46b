"""Accuracy of a saved classifier on images with noise, blur, weather and compression.

    python -m byoljax.main --config=configs/robustness.py --config.classifier=runs/byol

The classifier is one that an evaluation has left, of several in a run the newest. The test images
are those of the set that the run was pretrained on; with `--config.data.name=...` another set of
the same classes.
"""

from ml_collections import ConfigDict

from . import base


def get_config(arg: str = '') -> ConfigDict:
  config = ConfigDict(
    {
      'task': 'robustness',
      'classifier': '',  # a run's workdir, an evaluation's, or a classifier's
      # '' means: as in pretraining.
      'data': {'name': '', 'dir': '', 'threads': 0},
      'image_size': 0,  # 0 = the classifier's
      'batch_size': 512,
      'robustness': {
        'corruptions': (),  # () = all 15 of byoljax.data.augment.corruptions
        'strengths': (1, 2, 3, 4, 5),
        'max_images': 0,  # test images, drawn at random; 0 = all
        'seed': 0,
      },
      'log': {'verbose': False},
    }
  )
  return base.finish(config, [option for option in arg.split(',') if option])
