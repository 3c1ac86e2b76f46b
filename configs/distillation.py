"""Distillation on unlabelled images (SimCLR v2, Chen et al. 2020, arXiv 2006.10029, section 2).

    python -m byoljax.main --config=configs/linear.py --config.pretrained=runs/simclr
    python -m byoljax.main --config=configs/distillation.py \\
      --config.teacher=runs/simclr/evals/linear-online-3750

    :cifar10 :cifar10_small :imagenette :imagenet,400 :folder :npz    scales, see configs/scales.py
    ...,smoke     seconds, to see that it runs

The teacher is a linear classifier that an evaluation left, frozen, on its encoder. Student
and teacher see the same crops and flips.

Published results (theirs, not ours): ImageNet ResNet-50 top-1 73.9 % from 1 % of the labels, 77.5 %
from 10 %, taught by a fine-tuned ResNet-152 x3 with selective kernels.
"""

from ml_collections import ConfigDict

from . import scales

METHOD = {'name': 'distillation', 'temperature': 1.0}


def get_config(arg: str = '') -> ConfigDict:
  config = scales.build(arg, METHOD, ADAPT, epochs={'imagenet': 400})
  scales.plain_view(config)
  config.teacher = ''  # the directory of a linear evaluation
  return config


def imagenet(config: ConfigDict, epochs: int) -> None:
  """The rate and the weight decay of v2's pretraining."""
  del epochs
  config.optim.update(
    name='lars_simclr', base_lr=0.1, lr_scaling='sqrt', warmup='5 %', weight_decay=1e-4
  )


ADAPT = {'imagenet': imagenet}
