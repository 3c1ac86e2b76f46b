"""Settings of XLA and JAX that make runs faster: made once, before any device is used.

`set_defaults`. XLA on CPUs has two libraries for convolutions. The one it chooses, YNNPACK,
computes the gradient with respect to the weights several times slower than the other, Eigen, at the
shapes of image encoders (64 channels on 32x32 maps: 36 against 96 GFLOP/s on two cores; 128 on
16x16: 44 against 165), and nothing else faster. The results differ by rounding. A BYOL step of
ResNet-18 at batch 64 takes 0.6 of the time: 3.1 instead of 5.1 s, on another day of the same
machine. What the user has put into XLA_FLAGS stands. XLA ends the process at a flag that it does
not know, so flags are set for those jaxlibs alone in which they have been seen.

`keep_programs`. Compiled programs are kept between runs: the same run, started again, begins in
seconds. They are in `$BYOLJAX_DATA/compiled` or `~/.cache/byoljax/compiled`; that folder may be
removed at any time. JAX's own settings stand above it: `JAX_COMPILATION_CACHE_DIR` chooses another
folder, `JAX_ENABLE_COMPILATION_CACHE=false` turns it off. JAX keeps what took longer than a second
to compile, under a hash of the program, its options and its own version.
"""

import contextlib
import hashlib
import os
import pathlib
import platform
from typing import Any

import jaxlib.version

_CONVOLUTIONS = '--xla_cpu_experimental_ynn_fusion_type'
_KNOWN_IN = ((0, 10), (0, 12))  # jaxlib from, and up to but without


def set_defaults() -> None:
  """Adds to XLA_FLAGS what makes CPUs faster; without effect once JAX has listed its devices."""
  flags = os.environ.get('XLA_FLAGS', '')
  first, end = _KNOWN_IN
  if first <= jaxlib.version.__version_info__[:2] < end and _CONVOLUTIONS not in flags:
    os.environ['XLA_FLAGS'] = f'{flags} {_CONVOLUTIONS}=-individual_convolution'.strip()


def keep_programs() -> None:
  """Turns JAX's cache on, unless the user has chosen a place or none can be written."""
  import jax

  settings: Any = jax.config  # Its options are attributes that no type checker knows.
  if settings.jax_compilation_cache_dir or not settings.jax_enable_compilation_cache:
    return
  home = os.environ.get('BYOLJAX_DATA') or os.path.join('~', '.cache', 'byoljax')
  folder = pathlib.Path(home).expanduser().absolute() / 'compiled' / _processor()
  try:
    folder.mkdir(parents=True, exist_ok=True)
  except OSError:
    return
  if os.access(folder, os.W_OK):
    settings.update('jax_compilation_cache_dir', str(folder))


def _processor() -> str:
  """Programs for a CPU use its instructions, and home directories are shared between computers."""
  known = [platform.machine(), platform.processor()]
  with contextlib.suppress(OSError):
    for line in pathlib.Path('/proc/cpuinfo').read_text().splitlines():
      if line.startswith(('flags', 'Features')):
        known.append(' '.join(sorted(line.split())))
        break
  return hashlib.blake2b('\n'.join(known).encode(), digest_size=6).hexdigest()
