"""Compiled programs kept between runs: the same run, started again, begins in seconds.

On by default, in `$BYOLJAX_DATA/compiled` or `~/.cache/byoljax/compiled`; that folder may be
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

import jax


def enable() -> None:
  """Turns the cache on, unless the user has chosen a place or none can be written."""
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
