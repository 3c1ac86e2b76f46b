"""Bits per dimension of held-out images over training, beside those of training images."""

import numpy as np

from byoljax.data.sources.source import Source
from byoljax.encoders import likelihood
from byoljax.encoders.likelihood import Scorer
from byoljax.report.reconstructions import Strips

_MOST = 256  # images


def table(scorer: Scorer, source: Source, train: Source) -> Strips:
  """What images cost at each of a run's checkpoints.

  Args:
    scorer: of the run.
    source: held-out images.
    train: those that the run was trained on.
  """
  held_out = likelihood.some(source, _MOST)
  parts = {'held-out': held_out, 'training': likelihood.some(train, held_out.size)}
  rows = []
  for step in scorer.steps():
    row = {'step': f'{step:,}'}
    for name, part in parts.items():
      found = scorer.score(step, part)
      row[f'{name} bits per dim'] = f'{found.mean():.3f} ± {found.std() / np.sqrt(len(found)):.3f}'
    rows.append(row)
  note = (
    f'Means over {held_out.size} whole images of each and their standard errors, in evaluation '
    f'mode. Held-out images are from {source.name}; some may have been used in training.'
  )
  return Strips(None, rows, note)
