"""Self-supervised visual representation learning in pure JAX: BYOL and its peers."""

from typing import TYPE_CHECKING, Any

from byoljax.version import __version__

if TYPE_CHECKING:
  from byoljax.encoders.encoder import Encoder

__all__ = ['__version__', 'load']


def load(
  run: str, network: str = 'online', tap: str = 'embedding', *, module: Any = None
) -> 'Encoder':
  """A trained encoder as a pure function of images; see `byoljax.encoders.load.load`.

  Examples:
    >>> import numpy as np
    >>> embed = load('runs/byol')
    >>> embed.dim
    128
    >>> embed(np.zeros((2, 12, 12, 3), np.uint8)).shape
    (2, 128)
  """
  # JAX is imported when it is needed, not by `import byoljax`.
  from byoljax.encoders import load as load_lib

  return load_lib.load(run, network, tap, module=module)
