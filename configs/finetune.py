"""Fine-tuning of the whole encoder with all or few labels, beside the same from scratch.

    python -m byoljax.main --config=configs/finetune.py --config.pretrained=runs/byol
    python -m byoljax.main --config=configs/finetune.py --config.pretrained=runs/byol \
      --config.labels='10 per class'

    :byol          the default: SGD, every combination of five rates and two lengths, tried on a
                   held-out fifth of the labelled images
    :simclr :simclr_v2 :barlow_twins :vicreg :swav    few labels as in these papers
    :transfer      20,000 steps of batch 256, seven rates, seven weight decays (SimCLR, BYOL)
    :mae           of ViTs: layer-wise rates, drop path, mixup, CutMix, label smoothing
    :voc           images with several labels each: 80,000 steps of batch 16 (DeepCluster)
    :small         for small encoders and data: 30 epochs of batch 64, three rates
    :small_vit     the same for small ViTs: AdamW, layer-wise rates
    ...,smoke      seconds, to see that it runs

`labels` is a share ('1 %', '100 %'), a number per class ('10 per class'), both stratified and drawn
by `split_seed`, or a file that names the labelled images, one a line, such as ImageNet's
published 1 % and 10 %. The encoder, the data and the normalization come from the pretrained run's
own config.json. Results are those of the last step, on a test set that is looked at once.

Papers' rates that differ between 1 % and 10 % of the labels are those of 1 % here.
"""

from ml_collections import ConfigDict

from . import base


def _alone(protocol: str, **changes) -> dict:
  """One setting, nothing to choose; `changes` of the optimizer and of the protocol."""
  names = base.finetune_protocol()
  optim = {name: value for name, value in changes.items() if name not in names}
  rest = {name: value for name, value in changes.items() if name in names}
  plain = base.finetune_protocol()['optim'] | optim
  nothing = {'base_lr': (), 'length': (), 'weight_decay': ()}
  return base.finetune_protocol(**{'protocol': protocol, 'optim': plain, 'sweep': nothing} | rest)


def _decades(low: int, high: int) -> tuple[float, ...]:
  """Seven values from 10^low to 10^high, evenly spaced on a logarithmic scale."""
  return tuple(float(f'{10 ** (low + (high - low) * i / 6):.6g}') for i in range(7))


PROTOCOLS = {
  'byol': base.finetune_protocol(),
  # At 10 %: 30 epochs.
  'simclr': _alone('simclr', base_lr=0.05, lr_scaling='linear', batch_size=4096,
                   length='60 epochs'),
  # From the first layer of the head; 30 epochs at 10 % and 100 %, the latter without the layer.
  'simclr_v2': _alone('simclr_v2', name='lars_simclr', base_lr=0.005, lr_scaling='sqrt',
                      nesterov=False, length='60 epochs', head_layers=1),
  'barlow_twins': _alone('barlow_twins', base_lr=0.005, head_lr=100.0, nesterov=False,
                         lr_update='epoch', batch_size=256, length='20 epochs'),
  # At 10 %: rate 0.01, the head's 10 times that.
  'vicreg': _alone('vicreg', base_lr=0.03, head_lr=0.08 / 0.03, nesterov=False,
                   lr_update='epoch', batch_size=256, length='20 epochs'),
  # At 10 %: rate 0.01, the head's 20 times that.
  'swav': _alone('swav', base_lr=0.02, head_lr=250.0, nesterov=False, schedule='step',
                 decay_at=(0.6, 0.8), decay_factor=0.2, batch_size=256, length='20 epochs'),
  # Their weight decay is divided by the learning rate; ours is not.
  'transfer': base.finetune_protocol(
    protocol='transfer', length='20000 steps', batch_size=256,
    sweep={'base_lr': _decades(-4, -1), 'length': (), 'weight_decay': (0.0, *_decades(-6, -3))},
  ),
  # ViT-B; L and H: layer_decay 0.75, base_lr 1e-3, 50 epochs, drop_path 0.2 and 0.3. Without
  # RandAugment and random erasing.
  'mae': _alone('mae', name='adamw', base_lr=5e-4, lr_scaling='linear', weight_decay=0.05,
                layer_decay=0.65, warmup='5 epochs', min_lr=1e-6, batch_size=1024,
                length='100 epochs', pool='mean', drop_path=0.1, mixup=0.8, cutmix=1.0,
                label_smoothing=0.1),
  # PASCAL VOC 2007's classification, of all layers; 'fc6-8' is freeze='conv5', batch_norm='frozen'.
  'voc': _alone('voc', base_lr=0.001, nesterov=False, schedule='step', decay_factor=0.5,
                decay_at=tuple(number / 8 for number in range(1, 8)), weight_decay=1e-6,
                exclude_bias_and_norm=False, batch_size=16, length='80000 steps', crops=10),
  # A small ViT: AdamW and layer-wise rates, without mixing.
  'small_vit': base.finetune_protocol(
    protocol='small_vit', length='30 epochs', batch_size=64, crop_scale=(0.3, 1.0), pool='mean',
    optim=base.finetune_protocol()['optim'] | {
      'name': 'adamw', 'weight_decay': 0.05, 'layer_decay': 0.75, 'warmup': '2 epochs'},
    sweep={'base_lr': (5e-4, 1e-3, 2e-3), 'length': (), 'weight_decay': ()},
  ),
  'small': base.finetune_protocol(
    protocol='small', length='30 epochs', batch_size=64, crop_scale=(0.3, 1.0),
    optim=base.finetune_protocol()['optim'] | {'weight_decay': 5e-4},
    sweep={'base_lr': (0.01, 0.03, 0.1), 'length': (), 'weight_decay': ()},
  ),
}  # fmt: skip


def get_config(arg: str = '') -> ConfigDict:
  options = [option for option in arg.split(',') if option]
  named = next((option for option in options if option in PROTOCOLS), 'byol')
  config = ConfigDict(
    {
      'task': 'finetune',
      'pretrained': '',  # a run's workdir, or one of its checkpoints/<step>
      'network': 'online',  # or 'target'; 'random': from scratch
      'scratch': True,  # also train from scratch
      # '' and () mean: as in pretraining.
      'data': {'name': '', 'dir': '', 'threads': 0},
      'image_size': 0,  # 0 = as in pretraining
      'labels': '100 %',  # or '1 %', '10 per class', or a file of names
      'split_seed': 0,  # draws the labelled images
      'finetune': PROTOCOLS[named],
      'log': {'every': '50 steps', 'tensorboard': False, 'csv': False, 'verbose': False},
    }
  )
  options = [option for option in options if option != named]
  if 'smoke' in options:
    options.remove('smoke')
    config.labels = '8 per class'
    config.finetune.update(length='4 steps', batch_size=32)
    config.finetune.optim.warmup = '0 epochs'
    config.finetune.sweep.update(base_lr=(0.01, 0.1), length=(), weight_decay=())
  return base.finish(config, options, known=PROTOCOLS)
