"""SimCLR v1 and v2 (Chen et al. 2020, arXiv 2002.05709 and 2006.10029).

    python -m byoljax.main --config=configs/simclr.py

    :cifar10 :cifar10_small :imagenette :imagenet,100 :folder :npz    scales, see configs/scales.py
    ...,v2        the deeper head, ResNet-D with selective kernels, v2's rate (on ResNets)
    ...,paper     the first paper where the code differs: two layers in the head, less weight decay,
                  brightness that is added
    ...,smoke     seconds, to see that it runs

Published results (theirs, not ours): ImageNet ResNet-50 linear top-1 64.5 % at 100 epochs; with
`paper` 69.3 % at 1000; with `v2` 74.6 % at 800 (71.7 % without selective kernels and ResNet-D);
CIFAR-10 ResNet-18 90.74 % (solo-learn, 1000 epochs, online classifier).
"""

from ml_collections import ConfigDict

from . import scales

METHOD = {
  'name': 'simclr',
  'projector': (2048, 128),  # hidden, output
  'projector_norm': True,  # batch normalization in the head
  'temperature': 0.1,
  'chunk': 0,  # candidates of the loss at a time; 0 = all at once
  'memory_size': 0,  # queued negatives of v2; 0 = none, 65536 in the paper
  'memory_tau': 0.999,
}


def get_config(arg: str = '') -> ConfigDict:
  return scales.build(arg, METHOD, ADAPT, variants={'v2': v2, 'paper': paper})


def shapes(config: ConfigDict, epochs: int) -> None:
  """A small head and a higher temperature."""
  del epochs
  config.method.update(projector=(512, 128), temperature=0.2)


def cifar10(config: ConfigDict, epochs: int) -> None:
  """The script behind solo-learn's published 90.74 %; its present one blurs."""
  del epochs
  config.method.update(projector=(2048, 256), projector_norm=False, temperature=0.2)
  config.optim.update(base_lr=0.4, weight_decay=1e-5)
  color(config, blur_prob=0.0)


def cifar10_small(config: ConfigDict, epochs: int) -> None:
  """A small head."""
  del epochs
  config.method.update(projector=(512, 128), temperature=0.2)
  color(config, blur_prob=0.0)


def imagenette(config: ConfigDict, epochs: int) -> None:
  """The paper's views at 128 px."""
  del epochs
  config.optim.update(name='lars_simclr', base_lr=0.3, weight_decay=1e-6)
  color(config)
  scales.operators(config, 'simclr_v2')


def imagenet(config: ConfigDict, epochs: int) -> None:
  """As in their code: three layers in the head, no normalization of the images."""
  del epochs
  config.method.projector = (2048, 2048, 128)
  config.data.update(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
  config.encoder.update(padding='fixed', zero_init_residual=True)
  config.optim.update(name='lars_simclr', base_lr=0.3, weight_decay=1e-4)
  color(config)
  scales.operators(config, 'simclr_v2')


def paper(config: ConfigDict) -> None:
  """What the first paper says and the code does not do: two layers, brightness that is added."""
  config.method.projector = config.method.projector[-2:]
  config.optim.weight_decay = 1e-6
  scales.operators(config, 'byol')


def color(config: ConfigDict, **changes) -> None:
  """The paper's color jitter at strength 1, the same for both views."""
  strength = {'brightness': 0.8, 'contrast': 0.8, 'saturation': 0.8, 'hue': 0.2}
  scales.alike(config, **({'blur_prob': 0.5} | strength | changes))


def v2(config: ConfigDict) -> None:
  """A third layer in the head; at ImageNet's scale its encoder and its rate, too."""
  hidden, out = config.method.projector[0], config.method.projector[-1]
  config.method.projector = (hidden, hidden, out)
  if config.encoder.name.startswith('resnet'):
    config.encoder.update(selective_kernel=True, resnet_d=True)
  if config.encoder.name == 'resnet50':
    config.optim.update(base_lr=0.1, lr_scaling='sqrt', warmup='5 %', weight_decay=1e-4)


ADAPT = {
  'shapes': shapes,
  'cifar10': cifar10,
  'cifar10_small': cifar10_small,
  'imagenette': imagenette,
  'imagenet': imagenet,
}
