"""Masked tokens, BERT (Devlin et al. 2018, arXiv 1810.04805), on the colors of an image.

    python -m byoljax.main --config=configs/masked_tokens.py

trains on the built-in shapes at 16 px in 32 colors, minutes on a CPU. After a colon, a scale of
`configs/scales.py`, and

    ...,image_gpt    the BERT objective of image GPT: 15 % of the pixels, all hidden
    ...,blocks       rectangles, 40 % of the pixels, as in BEiT (Bao et al. 2021, arXiv 2106.08254)

Published results (theirs, not ours, of image GPT): ImageNet at 32 px, linear on the best layer of L
with BERT's objective: below the autoregressive one, above it once fine-tuned.
"""

from ml_collections import ConfigDict

from . import image_gpt as gpt
from . import scales

METHOD = {
  'name': 'masked_tokens',
  'mask_ratio': 0.15,
  'treatment': (0.8, 0.1, 0.1),  # shares of it: hidden, replaced, left
  'least_block': 0,  # places of the smallest rectangle; 0 = places anywhere
}


def get_config(arg: str = '') -> ConfigDict:
  variants = {'image_gpt': image_gpt, 'blocks': blocks}
  return scales.build(arg, METHOD, ADAPT, epochs={'shapes': 2}, variants=variants)


def image_gpt(config: ConfigDict) -> None:
  """All that is asked for is hidden."""
  config.method.treatment = (1.0, 0.0, 0.0)


def blocks(config: ConfigDict) -> None:
  """BEiT's share, rectangles and treatment."""
  config.method.update(mask_ratio=0.4, treatment=(1.0, 0.0, 0.0), least_block=16)


def seen_whole(scale: str) -> scales.Adapt:
  """What image GPT's recipe does at a scale, with the transformer that sees in both directions."""

  def adapt(config: ConfigDict, epochs: int) -> None:
    gpt.ADAPT[scale](config, epochs)
    config.encoder.name = config.encoder.name.replace('gpt', 'bert')

  return adapt


ADAPT = {scale: seen_whole(scale) for scale in gpt.ADAPT}
