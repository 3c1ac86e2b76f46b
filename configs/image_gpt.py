"""Image GPT (Chen et al. 2020, *Generative pretraining from pixels*, ICML), autoregressive.

    python -m byoljax.main --config=configs/image_gpt.py

trains on the built-in shapes at 16 px in 32 colors, minutes on a CPU. After a colon, a scale of
`configs/scales.py`. `byoljax sample RUN` draws new images. At `imagenet` the paper's S at 32 px;
`--config.encoder.name=image_gpt_medium` or `image_gpt_large` are its others. The BERT objective is
`configs/masked_tokens.py:image_gpt`.

Published results (theirs, not ours): ImageNet at 32 px, nats a pixel, test: S 2.0895, M 2.0614, L
2.0466; CIFAR-10, linear on the best layer of L: 96.3 %.
"""

from ml_collections import ConfigDict

from . import scales

METHOD = {'name': 'image_gpt'}


def get_config(arg: str = '') -> ConfigDict:
  return scales.build(arg, METHOD, ADAPT, epochs={'shapes': 2})


def shapes(config: ConfigDict, epochs: int) -> None:
  """A small transformer on small images; ours."""
  del epochs
  transformer(config, 'image_gpt_micro', 16)
  config.train.batch_size = 32
  config.optim.update(base_lr=1.6e-2, weight_decay=0.01, b2=0.95, warmup='10 %')


def cifar10(config: ConfigDict, epochs: int) -> None:
  """The paper's S at 32 px; batch and rate ours."""
  del epochs
  transformer(config, 'image_gpt_small', 32)
  config.train.batch_size = 128
  optimizer(config, 3e-3)


def cifar10_small(config: ConfigDict, epochs: int) -> None:
  """As the shapes."""
  shapes(config, epochs)


def imagenet(config: ConfigDict, epochs: int) -> None:
  """S as published, the rate per 128 images."""
  cifar10(config, epochs)
  optimizer(config, 6e-3)


def optimizer(config: ConfigDict, base_lr: float) -> None:
  """The paper's: Adam with b2 0.95, warm-up, cosine; decay 0.01 of matrices as GPT's."""
  config.optim.update(
    name='adamw', base_lr=base_lr, warmup='5 %', weight_decay=0.01, b2=0.95,
    trust_coefficient=0.001,
  )  # fmt: skip


def transformer(config: ConfigDict, name: str, size: int) -> None:
  """One of the transformers, on whole images of its size."""
  scales.whole_images(config, size)
  config.encoder.update(name=name, grid=size)


def smoke(config: ConfigDict, epochs: int) -> None:
  """The smallest network, on small images."""
  del epochs
  transformer(config, 'image_gpt_micro', 16)


ADAPT = {
  'shapes': shapes,
  'cifar10': cifar10,
  'cifar10_small': cifar10_small,
  'imagenette': cifar10,
  'imagenet': imagenet,
  'smoke': smoke,
}
