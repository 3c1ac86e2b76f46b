"""Settings of XLA that cannot wait until it has started: called once, before any device is used.

XLA on CPUs has two libraries for convolutions. The one it chooses, YNNPACK, computes the gradient
with respect to the weights several times slower than the other, Eigen, at the shapes of image
encoders (64 channels on 32x32 maps: 36 against 96 GFLOP/s on two cores; 128 on 16x16: 44 against
165), and nothing else faster. The results differ by rounding. A BYOL step of ResNet-18
at batch 64 takes 0.6 of the time: 3.1 instead of 5.1 s, on another day of the same machine.

What the user has put into XLA_FLAGS stands. XLA ends the process at a flag that it does not know,
so flags are set for those jaxlibs alone in which they have been seen.
"""

import os

import jaxlib.version

_CONVOLUTIONS = '--xla_cpu_experimental_ynn_fusion_type'
_KNOWN_IN = ((0, 10), (0, 12))  # jaxlib from, and up to but without


def set_defaults() -> None:
  """Adds to XLA_FLAGS what makes CPUs faster; without effect once JAX has listed its devices."""
  flags = os.environ.get('XLA_FLAGS', '')
  first, end = _KNOWN_IN
  if first <= jaxlib.version.__version_info__[:2] < end and _CONVOLUTIONS not in flags:
    os.environ['XLA_FLAGS'] = f'{flags} {_CONVOLUTIONS}=-individual_convolution'.strip()
