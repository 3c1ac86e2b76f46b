"""XLA and JAX settings that make runs faster, to be applied before any device is used.

`set_defaults`. XLA on CPUs has two libraries for convolutions. The default one, YNNPACK,
computes the gradient with respect to the weights several times slower than the other, Eigen, at the
shapes of image encoders (64 channels on 32x32 maps: 36 against 96 GFLOP/s on two cores; 128 on
16x16: 44 against 165), and is not faster otherwise. The results differ by rounding. With Eigen a
BYOL step of ResNet-18 at batch 64 takes 0.6 of the time: 3.1 instead of 5.1 s, on the same machine
another day. XLA_FLAGS set by the user take precedence. XLA aborts at an unknown flag, so the flag
is set only for versions of jaxlib that are known to have it.

`keep_programs`. Compiled programs are cached between runs, so that the same run starts within
seconds the next time, in `$BYOLJAX_DATA/compiled` or `~/.cache/byoljax/compiled`; that folder may
be removed at any time. JAX's own settings take precedence: `JAX_COMPILATION_CACHE_DIR` selects
another folder, `JAX_ENABLE_COMPILATION_CACHE=false` disables the cache. JAX stores programs that
took longer than a second to compile, under a hash of the program, its options and its own version.
Nothing is kept for several CPU devices (`--xla_force_host_platform_device_count`), whatever is set:
XLA runs the collectives of a program that it has compiled in one order, but those of a program that
it reads back in any, so that devices wait for each other forever (jaxlib 0.10.2).
"""

import contextlib
import hashlib
import os
import pathlib
import platform
import re
from typing import Any

import jaxlib.version

_CONVOLUTIONS = '--xla_cpu_experimental_ynn_fusion_type'
_KNOWN_IN = ((0, 10), (0, 13))  # jaxlib versions: first, and end (exclusive).


def set_defaults() -> None:
  """Adds the flag for faster CPU convolutions to XLA_FLAGS; no effect once JAX is initialized."""
  flags = os.environ.get('XLA_FLAGS', '')
  first, end = _KNOWN_IN
  if first <= jaxlib.version.__version_info__[:2] < end and _CONVOLUTIONS not in flags:
    os.environ['XLA_FLAGS'] = f'{flags} {_CONVOLUTIONS}=-individual_convolution'.strip()


def keep_programs() -> None:
  """Enables JAX's compilation cache unless the user has configured it or no folder is writable."""
  import jax

  settings: Any = jax.config  # Its attributes are unknown to type checkers.
  if _has_several_cpus(settings):
    settings.update('jax_enable_compilation_cache', False)
  if settings.jax_compilation_cache_dir or not settings.jax_enable_compilation_cache:
    return
  home = os.environ.get('BYOLJAX_DATA') or os.path.join('~', '.cache', 'byoljax')
  try:
    folder = pathlib.Path(home).expanduser().absolute() / 'compiled' / _processor()
    folder.mkdir(parents=True, exist_ok=True)
  except (OSError, RuntimeError):  # RuntimeError: a user without a home directory.
    return
  if os.access(folder, os.W_OK):
    settings.update('jax_compilation_cache_dir', str(folder))


def _has_several_cpus(settings: Any) -> bool:
  """Whether this computer's processor is to be seen as several devices; starts none."""
  asked = re.findall(r'xla_force_host_platform_device_count=(\d+)', os.environ.get('XLA_FLAGS', ''))
  return settings.jax_num_cpu_devices > 1 or any(int(count) > 1 for count in asked[-1:])


def _processor() -> str:
  """A hash of the processor, whose instructions programs use: home folders may be shared."""
  known = [platform.machine(), platform.processor()]
  with contextlib.suppress(OSError):
    for line in pathlib.Path('/proc/cpuinfo').read_text().splitlines():
      if line.startswith(('flags', 'Features')):
        known.append(' '.join(sorted(line.split())))
        break
  return hashlib.blake2b('\n'.join(known).encode(), digest_size=6).hexdigest()
