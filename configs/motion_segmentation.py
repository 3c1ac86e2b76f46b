"""Motion segmentation (Pathak et al. 2017, arXiv 1612.06370; Doersch and Zisserman, 1708.07860).

    python -m byoljax.main --config=configs/motion_segmentation.py

trains on `sprites`, the built-in moving scenes, minutes on a CPU, with the truth about what moves.
After a colon, a scale of `configs/scales.py`, for data that have a field 'moving' (in an .npz,
'moving_train'; of another name with `--config.method.mask` and `--config.data.fields`), and

    :shapes,differencing     the difference of two frames in place of the truth
    :folder_small,differencing     your clips: --config.data.name=frames --config.data.dir=clips

Published results (theirs, not ours): ImageNet, ResNet-101, top-5 of linear classifiers 27.6 %; VOC
detection 61.1 mAP (Doersch and Zisserman, table 1).
"""

from ml_collections import ConfigDict

from . import scales

METHOD = {
  'name': 'motion_segmentation',
  'mask': 'moving',  # a field that is not 0 where something moves; '' = differences of two frames
  'threshold': 0.1,  # of the difference of pixels in [0, 1]
  'moving_weight': 1.0,  # of pixels that move, in the loss
  'tap': '',  # which of the encoder's maps the decoder reads; '' = the last
  'decoder_width': 16,  # channels of the decoder's last stage, doubled in each before it
}


def get_config(arg: str = '') -> ConfigDict:
  return scales.build(arg, METHOD, ADAPT, variants={'differencing': differencing})


def differencing(config: ConfigDict) -> None:
  """No mask: two frames, cropped alike."""
  config.method.mask = ''
  config.data.fields = ('second:image',)
  config.views.view2 = config.views.view1.to_dict() | {
    'field': 'second',
    'geometry_of': 'view1',
  }


def masked(config: ConfigDict) -> None:
  """One view with its mask; five checkpoints for the report."""
  scales.reconstructed_view(config, crop_scale=(0.5, 1.0))
  config.data.fields = ('moving:mask',)


def shapes(config: ConfigDict, epochs: int) -> None:
  """The built-in moving scenes, a light decoder; ours."""
  del epochs
  config.data.name = 'sprites'
  config.method.decoder_width = 8
  masked(config)


def small(config: ConfigDict, epochs: int) -> None:
  """A light decoder; ours."""
  del epochs
  config.method.decoder_width = 8
  masked(config)


def photographs(config: ConfigDict, epochs: int) -> None:
  """AdamW; ours."""
  del epochs
  masked(config)
  config.train.batch_size = 128
  config.optim.update(name='adamw', base_lr=1e-3, weight_decay=0.01)


def smoke(config: ConfigDict, epochs: int) -> None:
  """Not on `shapes`, where nothing moves."""
  del epochs
  config.data.name = 'sprites'


ADAPT = {
  'shapes': shapes,
  'cifar10': photographs,
  'cifar10_small': small,
  'imagenette': photographs,
  'imagenet': photographs,
  'smoke': smoke,
}
