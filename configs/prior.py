"""A prior on the codes of a codec: images are drawn code by code.

    python -m byoljax.main --config=configs/vq_vae.py --workdir=runs/vq_vae
    python -m byoljax.main --config=configs/prior.py --config.codec=runs/vq_vae
    byoljax sample runs/prior

After a colon, a scale of `configs/scales.py`, and

    :shapes,class     the class stands before the codes: byoljax sample RUN --class star
    :shapes,pixelcnn  a Gated PixelCNN in place of the transformer, as in VQ-VAE's paper
    :shapes,vq_gan    VQ-GAN's hybrid, on a run of vq_gan: a tenth of the codes are read wrongly
    :shapes,dalle     DALL-E's, on a run of dvae: classes as captions, predicted at 1/8 of the loss

Views, mean and std are those of the codec's recipe.
"""

from ml_collections import ConfigDict

from . import scales

METHOD = {
  'name': 'prior',
  'network': 'transformer',  # or 'pixelcnn', gated, of `dim` channels
  'grid': 16,  # codes on each side of an image
  'dim': 1024,
  'depth': 24,
  'heads': 16,
  'condition': 'none',  # or 'class'
  'text_weight': 0.0,  # of the class's own likelihood
  'image_weight': 1.0,  # beside it
  'keep': 1.0,  # share of the codes that are read as they are
  'drop_class': 0.0,  # share of the examples whose class is not told; 0.1 for features
}


def get_config(arg: str = '') -> ConfigDict:
  variants = {'class': by_class, 'pixelcnn': pixelcnn, 'vq_gan': vq_gan, 'dalle': dalle}
  config = scales.build(arg, METHOD, ADAPT, epochs={'shapes': 10}, variants=variants)
  config.encoder.update(name='method', stem='imagenet')
  config.codec = ''  # a run of vq_vae, vq_gan or dvae
  return config


def by_class(config: ConfigDict) -> None:
  """The distribution of images of a class; labels are read."""
  config.method.condition = 'class'


def pixelcnn(config: ConfigDict) -> None:
  """van den Oord et al. 2017: a Gated PixelCNN, as deep as that of images at most."""
  method = config.method
  method.update(network='pixelcnn', dim=min(method.dim, 256), depth=min(method.depth, 15))


def vq_gan(config: ConfigDict) -> None:
  """Esser et al. 2021: GPT on codes, some of them replaced."""
  config.method.update(condition='class', keep=0.9)


def dalle(config: ConfigDict) -> None:
  """Ramesh et al. 2021: text and image as one sequence, image tokens weighing 7 times."""
  config.method.update(condition='class', text_weight=1.0, image_weight=7.0)


def shapes(config: ConfigDict, epochs: int) -> None:
  """64 codes, a transformer of 4 blocks; whole images, mirrored; ours."""
  del epochs
  config.method.update(grid=8, dim=64, depth=4, heads=4)
  config.optim.update(name='adamw', base_lr=8e-3, warmup='1 epochs', weight_decay=0.01)
  scales.reconstructed_view(config, crop_scale=(0.8, 1.0))


def cifar10(config: ConfigDict, epochs: int) -> None:
  """64 codes of 32 px, a transformer of 12 blocks; ours."""
  del epochs
  config.method.update(grid=8, dim=512, depth=12, heads=8)
  config.optim.update(name='adamw', base_lr=1e-3, warmup='2 epochs', weight_decay=0.01, b2=0.95)
  scales.reconstructed_view(config, crop_scale=(0.8, 1.0))


def photographs(config: ConfigDict, epochs: int) -> None:
  """256 codes of 128 px or less: codecs with 8 pixels a code."""
  cifar10(config, epochs)
  config.train.batch_size = 128
  config.method.grid = config.views.view1.size // 8


def imagenet(config: ConfigDict, epochs: int) -> None:
  """VQ-GAN's GPT of 24 blocks on 256 codes of 256 px; its AdamW of 4.5e-6 an image.

  Tables of codes, places and classes decay as well; theirs do not.
  """
  del epochs
  config.train.batch_size = 128
  config.optim.update(
    name='adamw', base_lr=4.5e-6 * 256, schedule='constant', warmup='0 epochs', weight_decay=0.01,
    b2=0.95,
  )  # fmt: skip
  scales.reconstructed_view(config, crop_scale=(0.8, 1.0), size=256)
  config.evals.image_size = 256


def smoke(config: ConfigDict, epochs: int) -> None:
  """A block of 16 numbers on 4 x 4 codes, which a codec's smoke recipe has."""
  del epochs
  config.method.update(grid=4, dim=16, depth=1, heads=2)


ADAPT = {
  'smoke': smoke,
  'shapes': shapes,
  'cifar10': cifar10,
  'cifar10_small': shapes,
  'imagenette': photographs,
  'imagenet': imagenet,
}
