"""Self-supervised visual representation learning in pure JAX: BYOL and its peers.

    run = byoljax.pretrain('byol:folder_small', data='photos', length='20 epochs')
    run.evaluate('knn')
    features = run.encoder(images)  # uint8 [b, S, S, 3] -> float32 [b, D]
    made = byoljax.classify('photos', 'labels.csv', from_=run)
    made.predict('new_photos')

A run that is there already, whoever trained it:

>>> import byoljax, numpy as np
>>> embed = byoljax.load('runs/byol')
>>> embed(np.zeros((2, 12, 12, 3), np.uint8)).shape
(2, 128)
>>> run = byoljax.open_run('runs/byol')
>>> run.config.encoder.name
'small'

JAX is imported by the first of these functions that is asked for, not by `import byoljax`.
"""

import os
from typing import TYPE_CHECKING, Any

from byoljax.version import __version__

# The recipes are `byoljax.configs` in a clone, too, where they lie beside the package.
if not os.path.isdir(os.path.join(__path__[0], 'configs')):
  __path__.append(os.path.dirname(__path__[0]))

if TYPE_CHECKING:
  from byoljax.api.classification import classify
  from byoljax.api.loading import load
  from byoljax.api.pretraining import pretrain
  from byoljax.api.saved_run import open_run

__all__ = ['__version__', 'classify', 'load', 'open_run', 'pretrain']


def __getattr__(name: str) -> Any:
  """A public function, imported when it is asked for."""
  if name == 'classify':
    from byoljax.api.classification import classify

    return classify
  if name == 'load':
    from byoljax.api.loading import load

    return load
  if name == 'open_run':
    from byoljax.api.saved_run import open_run

    return open_run
  if name == 'pretrain':
    from byoljax.api.pretraining import pretrain

    return pretrain
  raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


def __dir__() -> list[str]:
  return sorted({*globals(), *__all__})
