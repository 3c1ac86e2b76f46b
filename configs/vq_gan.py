"""VQ-GAN: codes whose images look real (Esser et al. 2021, arXiv 2012.09841).

    python -m byoljax.main --config=configs/vq_gan.py

trains on the built-in shapes, minutes on a CPU. After a colon, a scale of `configs/scales.py`, and

    ...,perceptual    images are compared by the maps of an encoder that a run has trained, in place
                      of their edges: --config.perceptual=runs/byol
"""

from ml_collections import ConfigDict

from . import scales

METHOD = {
  'name': 'vq_gan',
  'codes': 1024,
  'dim': 256,  # numbers of a code
  'decay': 0.0,  # of the codebook's moving averages; 0 = learned by its gradient
  'beta': 0.25,  # of the commitment
  'restart': 0.1,  # share of the mean use below which a code starts anew; 0 = never
  'perceptual': 0.1,  # of the comparison of edges
  'features': 1.0,  # of that of an encoder's maps, with config.perceptual alone
  'adversarial_weight': 0.8,
  'start': '0 steps',  # of the discriminator
  'discriminator_width': 64,  # channels of its first stage
  'discriminator_stages': 3,  # halvings of the image
  'tap': '',  # which of the encoder's maps is quantized; '' = the last
  'decoder': 'codec',
}


def get_config(arg: str = '') -> ConfigDict:
  variants = {'perceptual': perceptual}
  return scales.build(arg, METHOD, ADAPT, epochs={'shapes': 10}, variants=variants)


def perceptual(config: ConfigDict) -> None:
  """The maps of an encoder in place of edges; 1 is the weight of LPIPS in the authors' code."""
  config.method.update(perceptual=0.0, features=1.0)
  config.perceptual = ''  # a run whose encoder compares


def shapes(config: ConfigDict, epochs: int) -> None:
  """128 codes and the small networks, a discriminator for the second half; ours.

  The moments are the authors': with (0.9, 0.999) the discriminator is right in 84 % after 200 steps
  and the PSNR 17.1, with these 63 % and 18.3.
  """
  del epochs
  config.encoder.update(name='codec_small', stem='imagenet')
  config.method.update(
    codes=128, dim=16, decay=0.99, start='50 %', discriminator_width=16, discriminator_stages=2,
    decoder='codec_small',
  )  # fmt: skip
  config.optim.update(
    name='adamw', base_lr=8e-3, warmup='1 epochs', weight_decay=0.0, momentum=0.5, b2=0.9
  )
  config.optim.groups = ConfigDict({'discriminator': {'base_lr': 2e-3}})
  scales.reconstructed_view(config, crop_scale=(0.5, 1.0))


def photographs(config: ConfigDict, epochs: int) -> None:
  """The authors' Adam, of 4.5e-6 an image, on the networks of VQ-VAE, 4 pixels a code."""
  del epochs
  config.train.batch_size = 128
  config.encoder.update(name='codec', stem='imagenet')
  config.method.start = '30 %'
  config.optim.update(
    name='adamw', base_lr=4.5e-6 * 256, schedule='constant', warmup='0 epochs', weight_decay=0.0,
    momentum=0.5, b2=0.9,
  )  # fmt: skip
  scales.reconstructed_view(config, crop_scale=(0.5, 1.0))


def imagenet(config: ConfigDict, epochs: int) -> None:
  """The authors' network and size, 256 px and 16 pixels a code; discriminator from step 250,001."""
  photographs(config, epochs)
  config.views.view1.size = config.evals.image_size = 256
  config.encoder.name = config.method.decoder = 'vq_gan'
  config.method.start = '250001 steps'
  config.train.batch_size = 12


ADAPT = {
  'shapes': shapes,
  'cifar10': photographs,
  'cifar10_small': shapes,
  'imagenette': photographs,
  'imagenet': imagenet,
}
