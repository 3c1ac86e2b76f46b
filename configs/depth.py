"""Depth from single images: a decoder on a run's encoder, frozen and trained along, beside scratch.

    byoljax depth runs/byol --data.name=tfds:nyu_depth_v2
    byoljax depth:small runs/byol --data.name=sprites
    python -m byoljax.main --config=configs/depth.py --config.pretrained=runs/byol

    :byol      the default: four up-projection blocks on the last map, the whole network trained on
               images at half their size (BYOL on NYU v2, after Laina et al.)
    :linear    one linear layer on the last map of the frozen encoder
    :small     for small encoders and data: one block fewer than doublings, 20 epochs of batch 64
    ...,smoke  seconds, to see that it runs

Data: `folder` with images/ and depth/ (images of 8 or 16 bits, or .npy files), `npz` with x_train,
depth_train, x_test and depth_test, tfds:NAME, and `sprites`, which is built in. 0 is unknown.

Different from the paper: square crops of 224 pixels in place of 304 x 228, without the augmentation
of scale and color.
"""

from ml_collections import ConfigDict

from . import base, segment

_PAPER = {
  'protocol': 'byol', 'length': '7500 steps', 'batch_size': 256,
  'optim': base.optimizer(name='sgd', base_lr=0.16, lr_scaling='none', warmup='0 epochs',
                          weight_decay=5e-4),
  'sweep': (), 'head': 'up', 'output_stride': 0, 'zoom': (1.0, 1.0), 'reduce': 2,
}  # fmt: skip
PROTOCOLS = {
  'byol': segment.protocol(**_PAPER),
  'linear': segment.protocol(**(_PAPER | segment.LINEAR)),
  'small': segment.small(head='up', up_channels=(64, 32), zoom=(1.0, 1.0)),
}
IMAGE_SIZE = 224


def get_config(arg: str = '') -> ConfigDict:
  options = [option for option in arg.split(',') if option]
  named = next((option for option in options if option in PROTOCOLS), 'byol')
  image_size = 0 if named == 'small' else IMAGE_SIZE
  config = segment.task('depth', PROTOCOLS[named], segment.MODES[named], image_size)
  options = [option for option in options if option != named]
  if 'smoke' in options:
    options.remove('smoke')
    segment.smoke(config, 'depth')
    config.depth.update(reduce=1)
  return base.finish(config, options, known=PROTOCOLS)
