"""VICReg (Bardes, Ponce and LeCun 2021, arXiv 2105.04906).

Invariance between two views, a hinge on every dimension's standard deviation, and a penalty on
covariances between dimensions, on embeddings that are not normalized.

The authors' code and paper disagree twice, and the code's reading is the default: the variance term
is halved (`halved_variance`; the paper's equation 6 adds both branches), and the views are BYOL's
asymmetric ones (the paper's text has them alike: `configs/vicreg.py:...,paper`). Their code
takes the invariance over each device's own rows and averages, which is the mean over the global
batch, as it is here.
"""

from collections.abc import Sequence
import functools

import jax.numpy as jnp

from byoljax.losses import redundancy
from byoljax.method import MakeEncoder, Method, Setting
from byoljax.methods.checks import check_sizes
from byoljax.methods.joint_embedding.two_projections import from_projections
from byoljax.models import heads


def build(
  make_encoder: MakeEncoder,
  setting: Setting,
  *,
  projector: Sequence[int] = (8192, 8192, 8192),
  invariance: float = 25.0,
  variance: float = 25.0,
  covariance: float = 1.0,
  halved_variance: bool = True,
  head_init: str = 'fan_in',
) -> Method:
  """Builds VICReg from an encoder factory and its configuration.

  Args:
    make_encoder: called with the mapped axis: statistics are synchronized over all devices.
    setting: the run.
    projector: sizes of the expander's layers.
    invariance: weight of the mean squared distance between the views, >= 0.
    variance: weight of the hinge on standard deviations, >= 0; at 0 it will collapse.
    covariance: weight of the squared covariances, >= 0.
    halved_variance: True as in the authors' code, False as in the paper.
    head_init: how kernels of the heads start, a key of `heads.KERNEL_INITS`; 'torch' as in
      PyTorch.

  Raises:
    ValueError: an empty projector or a negative weight.
  """
  check_sizes(projector)
  weights = (invariance, variance, covariance)
  if min(weights) < 0:
    raise ValueError(f'the weights {weights} of invariance, variance, covariance must be >= 0.')
  head = heads.MLPHead(
    features=tuple(projector),
    bn_axis=setting.axis,
    dtype=jnp.dtype(setting.dtype),
    kernel_init=head_init,
  )
  net = heads.with_projector(make_encoder(setting.axis), head)
  criterion = functools.partial(
    redundancy.vicreg,
    invariance=invariance,
    variance=variance,
    covariance=covariance,
    halved_variance=halved_variance,
    axis=setting.axis,
  )
  return from_projections(net, criterion)
