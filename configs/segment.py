"""Semantic segmentation: a head on a run's encoder, frozen and trained along, beside scratch.

    byoljax segment runs/byol --data.name=voc_segmentation --data.dir=VOCdevkit/VOC2012
    byoljax segment:small runs/byol --data.name=sprites
    python -m byoljax.main --config=configs/segment.py --config.pretrained=runs/byol

    :byol      the default: two dilated convolutions on the last map at stride 16, fine-tuned, five
               rates tried on held-out training images (BYOL and MoCo on VOC; of ResNets)
    :linear    one linear layer on the last map of the frozen encoder, of any encoder
    :small     for small encoders and data: maps of every size, 20 epochs of batch 64, two rates
    ...,smoke  seconds, to see that it runs

Data are named like any other: `folder` with images/ and masks/ (palette or gray images; `train/`
and `val/` around them where there are both), `npz` with x_train, mask_train, x_test and mask_test,
`voc_segmentation`, `cityscapes`, `pets`, tfds:NAME, and `sprites`, which is built in. 255 is no
label.
"""

from ml_collections import ConfigDict

from . import base


def protocol(**changes) -> dict:
  """Fields of `segment` and `depth`: BYOL's on VOC 2012, with changes."""
  return {
    'protocol': 'byol',  # what to call it in results
    'length': '30000 steps',
    'batch_size': 16,
    'optim': base.optimizer(name='sgd', base_lr=0.01, lr_scaling='none', schedule='step',
                            decay_at=(0.7, 0.9), nesterov=False, warmup='0 epochs',
                            weight_decay=1e-4),
    'head_lr': 1.0,  # of the head, times the encoder's
    # Each is tried on held-out training images; () = the one value above.
    'sweep': (0.001, 0.00316, 0.01, 0.0316, 0.1),
    'held_out': 0.1,
    'batch_norm': 'batch',  # of an encoder that is trained; or 'frozen'
    'head': 'fcn',  # or 'linear', 'skips', 'up'; models/dense_heads.py
    'taps': (),  # maps or tokens that it reads; () = its own
    'width': 256,  # of the hidden layers of 'fcn'
    'up_channels': (512, 256, 128, 64),  # of the blocks of 'up'; () = none
    'output_stride': 16,  # of a ResNet's last map, by dilation; 0 = as it was trained
    'zoom': (0.5, 2.0),  # scale of training crops, over that of the evaluation
    'reduce': 1,  # images are made smaller by this factor, in training and evaluation
    'evaluation': 'whole',  # images at their own sizes; or in 'windows' as large as the crops
    'multiple': 32,  # pixels: sides of whole images are filled up to multiples
    'seed': 0,
  } | changes  # fmt: skip


def small(**changes) -> dict:
  """For encoders and images of CPUs."""
  optim = base.optimizer(name='adamw', base_lr=1e-3, lr_scaling='none', warmup='1 epochs',
                         weight_decay=1e-4)  # fmt: skip
  own = {
    'protocol': 'small', 'length': '20 epochs', 'batch_size': 64, 'optim': optim,
    'sweep': (1e-3, 3e-3), 'head': 'skips', 'output_stride': 0, 'zoom': (1.0, 1.5),
  }  # fmt: skip
  return protocol(**(own | changes))


LINEAR = {'protocol': 'linear', 'head': 'linear', 'output_stride': 0}
PROTOCOLS = {'byol': protocol(), 'linear': protocol(**LINEAR), 'small': small()}
MODES = {'byol': ('finetuned',), 'linear': ('frozen',), 'small': ('frozen', 'finetuned')}
# The crops of BYOL's and MoCo's protocol have 513 pixels, which patches of ViTs do not divide.
IMAGE_SIZES = {'byol': 512, 'linear': 512}


def task(name: str, fields: dict, modes: tuple, image_size: int) -> ConfigDict:
  """The configuration of a task with an output at every pixel."""
  return ConfigDict(
    {
      'task': name,
      'pretrained': '',  # a run's workdir, or one of its checkpoints/<step>
      'network': 'online',  # or 'target'; 'random': from scratch
      'scratch': True,  # also train from scratch
      'modes': modes,  # 'frozen', 'finetuned', or both
      # '' and (): as in pretraining. field: '' = that of the data set.
      'data': {'name': '', 'dir': '', 'threads': 0, 'field': ''},
      'image_size': image_size,  # side of training crops in pixels; 0 = as in pretraining
      'images': 0,  # training images, drawn by split_seed; 0 = all
      'split_seed': 0,
      'batch_size': 16,  # whole images of the evaluation; changes no result
      name: fields,
      'log': {'every': '50 steps', 'tensorboard': False, 'csv': False, 'verbose': False},
    }
  )


def smoke(config: ConfigDict, name: str) -> None:
  """Seconds, to see that it runs."""
  config.update(images=64, image_size=32)
  config[name].update(length='4 steps', batch_size=16, sweep=(), output_stride=0)
  config[name].optim.warmup = '0 epochs'


def get_config(arg: str = '') -> ConfigDict:
  options = [option for option in arg.split(',') if option]
  named = next((option for option in options if option in PROTOCOLS), 'byol')
  config = task('segment', PROTOCOLS[named], MODES[named], IMAGE_SIZES.get(named, 0))
  with config.unlocked():
    config.classes = ()  # their names in the order of their numbers; () = the data set's
  options = [option for option in options if option != named]
  if 'smoke' in options:
    options.remove('smoke')
    smoke(config, 'segment')
  return base.finish(config, options, known=PROTOCOLS)
