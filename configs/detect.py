"""Detection: Faster R-CNN on a run's encoder, beside the same from scratch.

    byoljax detect runs/byol --data.name=sprites
    byoljax detect:voc runs/byol --data.name=voc_boxes --data.dir=VOCdevkit/VOC2007

    :small    the default: a feature pyramid on a small encoder, for images of about 32 pixels;
              minutes on a CPU
    :voc      C4 on a ResNet as BYOL and MoCo fine-tune it on PASCAL VOC: 24,000 steps of batch 16
    :fpn      a feature pyramid on a ResNet: COCO's 1x schedule, 90,000 steps of batch 16
    ...,smoke seconds, to see that it runs

`detect.frozen` leaves the encoder as it is. Results are those of the last step, on test images that
are looked at once; without a test split a fifth of the images is held out.
"""

from ml_collections import ConfigDict

from . import base


def _protocol(protocol: str, optim: dict, detector: dict, **changes) -> dict:
  """Every field of a protocol, with changes."""
  return {
    'protocol': protocol,  # what to call it in results
    'length': '60 epochs',
    'batch_size': 16,  # global; at most the number of images is used
    'optim': base.optimizer(**optim),
    'frozen': False,  # whether the encoder stays as it is
    'batch_norm': 'batch',  # or 'frozen': the running statistics of pretraining
    'crop_scale': (0.5, 1.0),
    'fit': 'pad',  # how whole images become squares: filled up, or 'stretch'
    'detector': {
      'kind': 'fpn',  # or 'c4': regions go through a ResNet's last stage
      'taps': (),  # which maps; () = the last one of each size from a stride of 4 on
      'channels': 256,  # of the pyramid
      'width': 1024,  # of the fully connected layers
      'extra_level': False,  # whether a coarser level makes proposals, too
      'anchor_scales': (),  # in strides; () = (8,) of 'fpn', (2, 4, 8, 16, 32) of 'c4'
      'anchor_ratios': (0.5, 1.0, 2.0),
      'bins': 0,  # side of a region's grid; 0 = 7 of 'fpn', 14 of 'c4'
      'finest': 14.0,  # strides of the first map up to which regions are read from it, halved
      'first': 256,  # anchors of an image in the first stage's loss
      'second': 512,  # regions of an image in the second stage's
      'training': (2000, 1000),  # proposals: of a map, in all
      'testing': (1000, 1000),
      # Least score, overlap above which the worse of two is dropped, how many are looked at, stay.
      'found': (0.05, 0.5, 1000, 100),
    } | detector,
    'seed': 0,
  } | changes  # fmt: skip


_SGD = {'name': 'sgd', 'lr_scaling': 'none', 'nesterov': False, 'weight_decay': 1e-4}
PROTOCOLS = {
  'small': _protocol(
    'small',
    base.optimizer(name='adamw', base_lr=2e-3, lr_scaling='none', warmup='2 epochs',
                   weight_decay=1e-3),
    {'channels': 48, 'width': 128, 'anchor_scales': (2.0,), 'finest': 4.0, 'bins': 5, 'first': 64,
     'second': 32, 'training': (100, 32), 'testing': (100, 32), 'found': (0.05, 0.5, 100, 20)},
    length='30 epochs', batch_size=64,
  ),
  'voc': _protocol(
    'voc',
    _SGD | {'base_lr': 0.02, 'warmup': '100 steps', 'schedule': 'step', 'decay_at': (0.75, 0.917)},
    {'kind': 'c4'},
    length='24000 steps',
  ),
  'fpn': _protocol(
    'fpn',
    _SGD | {'base_lr': 0.02, 'warmup': '1000 steps', 'schedule': 'step',
            'decay_at': (0.667, 0.889)},
    {'extra_level': True},
    length='90000 steps',
  ),
}  # fmt: skip


def get_config(arg: str = '') -> ConfigDict:
  options = [option for option in arg.split(',') if option]
  named = next((option for option in options if option in PROTOCOLS), 'small')
  config = ConfigDict(
    {
      'task': 'detect',
      'pretrained': '',  # a run's workdir, or one of its checkpoints/<step>
      'network': 'online',  # or 'target'; 'random': from scratch
      'scratch': True,  # also train from scratch
      # '' and () mean: as in pretraining.
      'data': {'name': '', 'dir': '', 'threads': 0},
      # The field with the boxes, 'name:boxes:how many at most'; '' = as the data are.
      'boxes': '',
      'images': 0,  # how many training images; 0 = all
      'image_size': 0,  # side of the squares; 0 = as in pretraining
      'detect': PROTOCOLS[named],
      'log': {'every': '50 steps', 'tensorboard': False, 'csv': False, 'verbose': False},
    }
  )
  options = [option for option in options if option != named]
  if 'smoke' in options:
    options.remove('smoke')
    config.images = 64
    config.detect.update(length='4 steps', batch_size=16)
    config.detect.optim.warmup = '0 epochs'
  return base.finish(config, options, known=PROTOCOLS)
