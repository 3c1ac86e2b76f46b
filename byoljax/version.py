"""The version of byoljax, and those of the packages that a result depends on."""

import importlib.metadata
import platform

__version__ = '0.2.0'

_PACKAGES = ('jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'ml-collections', 'numpy')


def versions() -> dict[str, str]:
  """The versions of Python and of the packages that a result depends on; for result files."""
  found = {'python': platform.python_version()}
  for package in _PACKAGES:
    try:
      found[package] = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
      continue
  return found
