"""What the recipes share: every field there is, with a value that is right for most of them.

Recipes start from `get_config()`, replace what differs and end in `finish(config, options)`.
All values are base quantities; see `byoljax.config` for durations and overrides.
"""

from collections.abc import Iterable

from ml_collections import ConfigDict

from byoljax.suggest import did_you_mean

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CIFAR10_MEAN, CIFAR10_STD = (0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616)

# A task that learns beside the method, from the same forward passes: part of `config.method`.
AUXILIARY = {
  'auxiliary': '',  # none; or 'augmentation_prediction'
  'auxiliary_weight': 1.0,  # of its loss
  'auxiliary_targets': ('crop', 'color'),  # or 'flip', 'gray', 'blur', 'solarize'
}


def view(**changes) -> dict:
  """One view's augmentation: BYOL's first view (arXiv 2006.07733, table 6), with changes."""
  return {
    'size': 224,  # pixels; 0: the share below of the first view's size
    'size_share': 0.0,
    'operators': 'byol',  # of resizing, jitter, gray, blur; or 'torchvision', 'simclr_v2'
    'resize': 'bicubic',  # or, of torchvision, 'bilinear'
    'crop_scale': (0.08, 1.0),  # share of the area
    'crop_ratio': (0.75, 4 / 3),  # width / height, log-uniform
    'flip_prob': 0.5,
    'jitter_prob': 0.8,  # the four below, in random order
    'brightness': 0.4,
    'contrast': 0.4,
    'saturation': 0.2,
    'hue': 0.1,
    'gray_prob': 0.2,
    'blur_prob': 1.0,  # kernel size follows the view's size
    'blur_sigma': (0.1, 2.0),  # pixels
    'solarize_prob': 0.0,
    'solarize_threshold': 0.5,
    'vflip_prob': 0.0,  # upside down
    'turn_prob': 0.0,  # by 90, 180 or 270 degrees
    'rotate_degrees': 0.0,  # by any angle up to this, in either direction
    'shift': 0.0,  # by up to this share of the side, mirrored beyond the border
    'elastic': 0.0,  # standard deviation of an elastic displacement, share of the side ...
    'elastic_smooth': 0.1,  # ... smoothed by a Gaussian of such a share
    'randaugment_ops': 0,  # operations of RandAugment, out of 14, one after the other
    'randaugment_prob': 0.5,  # of each of them
    'cutout_prob': 0.0,  # a square of the mean ...
    'cutout_scale': (0.02, 0.2),  # ... of such a share of the area
    'own': '',  # 'mine:darker', a function of yours, (image, key) -> image
  } | changes


def linear_protocol(**changes) -> dict:
  """Linear evaluation as in BYOL's appendix C.1, with changes."""
  return {
    'protocol': 'byol_paper',  # what to call it in results
    'length': '80 epochs',
    'batch_size': 1024,
    # Each rate trains a head of its own, side by side; the best on held-out training images wins.
    'base_lr': (0.4, 0.3, 0.2, 0.1, 0.05),  # per 256 examples, where lr_scaling is linear
    'held_out': 0.1,  # share of the training images that chooses the rate; unused with a single one
    'name': 'sgd',  # the optimizer; momentum 0.9
    'nesterov': True,
    'lr_scaling': 'linear',  # or 'sqrt', 'none'
    'schedule': 'cosine',  # or 'step', with decay_at, or 'constant'
    'lr_update': 'step',  # when the rate changes: every 'step' or once an 'epoch'
    'decay_at': (0.6, 0.8),
    'warmup': '0 epochs',
    'weight_decay': 0.0,
    'exclude_bias_and_norm': True,  # biases from weight decay and adaptation
    'kernel_init': 'zeros',  # of the heads; or 'normal_0.01', 'fan_in'
    'norm': False,  # batch normalization of the features, without scale and shift
    'crop_scale': (0.08, 1.0),
    'seed': 0,
  } | changes


def finetune_protocol(**changes) -> dict:
  """Fine-tuning with few labels as in BYOL's appendix C.2, with changes.

  Theirs chooses on a validation set of its own; ours on a part of the labelled images.
  """
  return {
    'protocol': 'byol',  # what to call it in results
    'length': '50 epochs',
    'batch_size': 1024,  # global; at most the number of labelled images
    'optim': optimizer(name='sgd', base_lr=0.02, lr_scaling='none', nesterov=True,
                       warmup='0 epochs', weight_decay=0.0),
    'head_lr': 1.0,  # of the classifier, times the encoder's
    # Every combination is tried on held-out labelled images; () = the one value above.
    'sweep': {
      'base_lr': (0.005, 0.01, 0.02, 0.05, 0.1),
      'length': ('30 epochs', '50 epochs'),
      'weight_decay': (),
    },
    'held_out': 0.2,  # share of the labelled images that chooses among them
    'batch_norm': 'batch',  # or 'frozen': the running statistics of pretraining
    'head_layers': 0,  # of the projector that stay under the classifier
    'pool': '',  # of ViTs: 'cls' or 'mean'; '' = as in pretraining
    'drop_path': 0.0,  # of ViTs: how often the last block's branches are left out
    'mixup': 0.0,  # of its Beta(a, a); 0 = off
    'cutmix': 0.0,  # the same; with both, each batch is one of them
    'label_smoothing': 0.0,
    'freeze': '',  # weights up to this part of the encoder stay: 'stage2', 'conv5'; 'all'
    'crops': 1,  # of a test image: its center; or 10, with corners and mirrors
    'crop_scale': (0.08, 1.0),
    'seed': 0,
  } | changes  # fmt: skip


def optimizer(**changes) -> dict:
  """Every field of an optimizer, with changes."""
  return {
    'name': 'lars',
    'base_lr': 0.3,  # per 256 examples, where lr_scaling is linear
    'lr_scaling': 'linear',  # in the batch size; or 'sqrt', 'none'
    'schedule': 'cosine',  # or 'cosine_7_16', 'constant', 'step', 'wsd': warm-up, stable, decay
    'decay': '20 %',  # of 'wsd': at the end of the run
    'lr_update': 'step',  # when the rate changes: every 'step' or once an 'epoch'
    'warmup': '10 epochs',
    'start_lr': 0.0,  # share of the peak, at the start of the warm-up
    'end_lr': 0.0,  # share of the peak, for 'cosine' and 'wsd'
    'min_lr': 0.0,  # the same as a rate, in place of end_lr
    'decay_at': (0.6, 0.8),  # shares of training, for 'step'
    'decay_factor': 0.1,
    'weight_decay': 1e-6,
    'weight_decay_end': -1.0,  # on a cosine, with adamw; -1 = constant
    'momentum': 0.9,  # of 'adamw' the decay of the first moment
    'b2': 0.999,  # decay of the second moment, of 'adamw'
    'nesterov': False,
    'trust_coefficient': 0.001,
    'exclude_bias_and_norm': True,  # from weight decay and adaptation
    'unadapted': ('head',),  # roles that LARS decays but does not adapt: classifiers start at zero
    'clip_norm': 0.0,  # of a whole group's gradient; 0 = off
    'clip_tensor_norm': 0.0,  # of every tensor's gradient; 0 = off
    'layer_decay': 1.0,  # of the rate, from each block of a ViT to the one below; 1 = off
    # Fields that differ for some parameters: {'predictor': {'schedule': 'constant'}} for a
    # role, {'bias_and_norm': {'base_lr': 0.0048}}.
    'groups': {},
  } | changes


def get_config() -> ConfigDict:
  """Every field, for pretraining at ImageNet's scale unless a recipe says otherwise."""
  return ConfigDict(
    {
      'task': 'pretrain',
      'seed': 0,
      'train': {
        'length': '300 epochs',
        'batch_size': 4096,  # global
        'accumulate': 1,  # micro-batches per step
        # Smaller views first: '0.5 until 40 %, 0.75 until 70 %', shares of their size; '' = none.
        'progressive': '',
        'keep_tokens': 1.0,  # of ViTs in joint-embedding methods: share of the patches that is seen
        'non_finite': 'stop',  # the run; or 'skip' a step whose loss or gradient is not finite
        'max_skipped': 10,  # in a row; then the run stops
        'shard_state': False,  # optimizer, target, queue and bank over the devices; docs/pods.md
      },
      'data': {
        'name': 'imagenet2012',
        'dir': '',  # '' = $TFDS_DATA_DIR or TFDS's default; a path for folder, npz, shards, ...
        # More images to pretrain on, labels not looked at: a folder, or an .npz beside arrays.
        'unlabelled': '',
        # For methods that learn from two streams, with labels and without: which images have one
        # ('40' in all, '10 per class', '1 %', '100 %', a file), drawn by the seed; '' = none.
        'labels': '',
        'split_seed': 0,
        'unlabelled_per_labelled': 7,  # images of the second stream in a batch to one of the first
        'mean': IMAGENET_MEAN,  # per channel; auto: of the images themselves, as 'std'
        'std': IMAGENET_STD,
        # Which numbers are black and white where images have more than 8 bits: '' or 'file', what
        # the files say; 'stretch', the extremes of each image; '0,4095', these. docs/data.md
        'range': '',
        # Fields of the source beside the images, for methods that look at them: ('depth:map',
        # 'moving:mask', 'boxes:boxes:20'); name, kind (data/fields.py), and channels if need be.
        'fields': (),
        'frame_gap': 1,  # of frames and clips: places from a frame to the field 'second'
        # Numbers of the classes that pretraining sees, (3,) to find anomalies; () = every image.
        'classes': (),
        'threads': 0,  # 0 = as many as there are cores
        # Images of one size: decoded once, and kept on the accelerator where they fit. 'on' or
        # 'off'; changes no picture.
        'resident': 'auto',
      },
      'views': {'view1': view(), 'view2': view(blur_prob=0.1, solarize_prob=0.2)},
      'encoder': {
        'name': 'resnet50',
        'input': 'rgb',  # or 'gray', 'lightness', 'ab', 'lab', 'sobel', ...; see models/inputs.py
        'width': 1,
        'stem': 'imagenet',  # or 'cifar'
        'fc_dim': 4096,  # of AlexNets: the fully connected layers; 0 = none
        'padding': 'torch',  # or 'same', 'fixed'
        'zero_init_residual': False,
        'selective_kernel': False,  # SimCLR v2's ResNets
        'resnet_d': False,
        'first_projection': False,  # of other libraries' ResNet-18 and -34
        'output_stride': 0,  # of ResNets: of the last map, in pixels, by dilation; 0 = as it is
        'patch_size': 0,  # of ViTs and ConvNeXt; 0 = the encoder's own
        'pool': 'cls',  # of ViTs; or 'mean'
        'positions': 'sincos',  # of ViTs; or 'sincos_xy', 'learned'
        # Of ViTs: patches on each side that positions are made for, of image GPTs: pixels; 0 = own
        'grid': 0,
        'palette': 0,  # of image GPTs: colors; 0 = its own
        'series': (),  # of image GPTs: steps and channels; of data that are series, theirs
        'stride': 0,  # of codecs: pixels from one code to the next; 0 = 4
        'weight_norm': False,  # of PixelCNN++
        'attention': 'xla',  # of ViTs; or 'cudnn', on NVIDIA GPUs in bfloat16
        # Of the computation; or 'bfloat16', or 'auto': that on TPUs and on NVIDIA's GPUs from
        # Ampere on, float32 elsewhere. A run stores which of the two it was.
        'dtype': 'float32',
        'remat': False,  # True: less memory, one more forward pass
      },
      'method': {'name': 'byol'},
      # A run, a run of imported weights, or a file with weights to start from; '' = at random.
      'init_from': '',
      'init_heads': False,  # True: from the heads of that run, too, as far as they fit
      'optim': optimizer(),
      # A linear classifier that watches the encoder; it has its own optimizer and no way back.
      'probe': {'online': True, 'base_lr': 0.2, 'momentum': 0.9},
      'evals': {
        'image_size': 224,
        'batch_size': 512,
        'knn': {
          'every': '10 epochs',  # or 'at the end' only, or 'never'
          'k': (1, 5, 10, 20, 50, 100, 200),
          'temperature': (0.07, 0.1, 0.2),
          # While training, both are training images; the test set is for the end.
          'max_bank': 50000,  # 0 = all that are not queries
          'max_queries': 10000,  # and at most a fifth of the training images
        },
        'final': False,  # k-NN and linear table at the end of the run ...
        'report': True,  # report.html at the end of the run
        'baselines': True,  # ... with a random encoder and raw pixels beside it
        'linear': linear_protocol(),
      },
      'checkpoint': {'every': '10 epochs', 'keep': 2},  # or 'at the end' only
      'log': {
        'every': '50 steps',
        'tensorboard': True,
        'csv': False,
        'sinks': (),  # services that get the metrics: 'wandb', 'mlflow'; docs/services.md
        'verbose': False,
      },
      'profile': {'start': 0, 'steps': 0},  # trace of these steps; 0 steps = off
      'bench': {'steps': 20, 'rounds': 3},  # timed by the task 'bench': rounds of so many steps
    }
  )


def smoke(config: ConfigDict) -> ConfigDict:
  """A minute on any computer: the same code path with a tiny budget on the built-in images."""
  config.data.update(name='shapes', dir='')
  config.train.update(length='6 steps', batch_size=16)
  sizes = [view.size for view in config.get('views', {}).values()]
  for view in config.get('views', {}).values():
    if view.size:
      view.size = 32 if view.size == max(sizes) else 20
    view.update({'repeat': 2} if view.get('repeat', 1) > 1 else {})
  config.encoder.update(name='small', width=1, dtype='float32')
  config.encoder.update(
    selective_kernel=False, resnet_d=False, first_projection=False, output_stride=0
  )
  config.encoder.update(
    patch_size=0, grid=0, stride=0, fc_dim=4096, padding='torch', positions='sincos'
  )
  config.optim.warmup = '2 steps'
  config.evals.update(image_size=32, batch_size=64, final=False, report=False)
  config.evals.knn.update(every='at the end', max_bank=256)
  config.checkpoint.every = '3 steps'
  config.log.every = '2 steps'
  return config


def finish(config: ConfigDict, options: list[str], known: Iterable[str] = ()) -> ConfigDict:
  """Applies what every recipe understands: `smoke`. Anything left over is a mistake.

  Args:
    config: changed in place.
    options: what is left of the part after the colon.
    known: the recipe's own options, for the message.

  Raises:
    ValueError: an option that no one understood.
  """
  if 'smoke' in options and 'train' in config:  # Evaluations are short as they are.
    smoke(config)
  unknown = [option for option in options if option != 'smoke']
  if unknown:
    valid = [*known, 'smoke']
    if unknown[0] in valid:
      raise ValueError(
        f"'{unknown[0]}' after the colon cannot be combined with the other options: leave one out."
      )
    hint = did_you_mean(unknown[0], valid) or '.'
    raise ValueError(
      f"unknown option '{unknown[0]}' after the colon; valid: {', '.join(valid)}{hint}"
    )
  return config
