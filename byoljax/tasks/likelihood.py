"""What held-out images cost under a trained model of their distribution, in bits per dimension."""

import argparse
import json
from typing import TYPE_CHECKING

import numpy as np

from byoljax.config import ConfigError, user_errors
from byoljax.tasks.command import RUN, Command
from byoljax.wording import counted
from byoljax.workdir import places
from byoljax.workdir.run_dir import say

if TYPE_CHECKING:
  from byoljax.data.sources.source import Source
  from byoljax.encoders.likelihood import Scorer


def likelihood(run: str, count: int = 0) -> dict[str, float]:
  """Bits per dimension of test images, and of as many training images.

  The difference of the two is what the model knows by heart. Written to
  `evals/likelihood-<step>.json` of the run, and returned.

  Args:
    run: a run's directory, or one of its checkpoints/<step>.
    count: how many images of each; 0: all test images.

  Raises:
    ConfigError: a run without a likelihood, no test images, or a value out of range.
  """
  from byoljax.encoders import likelihood as scoring
  from byoljax.workdir import checkpoint
  from byoljax.workdir.files import replacing

  if count < 0:
    raise ConfigError(f'--count={count} must be at least 0; 0 is for all.')
  with user_errors():
    directory = checkpoint.checkpoint_directory(run)
  scorer = scoring.require_scorer(directory.parent.parent)
  step = int(directory.name)
  path = scorer.run / 'evals' / f'likelihood-{step}.json'
  places.require_folder(path.parent, 'RUN')
  test, train = (_opened(scorer, split) for split in ('test', 'pretrain'))
  test = scoring.some(test, count or test.size)
  found: dict[str, float] = {}
  for name, source in (('test', test), ('train', scoring.some(train, test.size))):
    bits = scorer.score(step, source)
    found[f'{name}_bits_per_dim'] = float(bits.mean())
    found[f'{name}_standard_error'] = float(bits.std() / np.sqrt(len(bits)))
    found[f'{name}_images'] = len(bits)
    say(
      f'{name:5}  {bits.mean():.4f} bits per dimension, standard error '
      f'{found[f"{name}_standard_error"]:.4f}, {counted(len(bits), "image")}'
    )
  with user_errors():
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path, 'w') as file:
      file.write(json.dumps({'step': step, **found}, indent=2) + '\n')
  return found


def _opened(scorer: 'Scorer', split: str) -> 'Source':
  """A split of the run's own data, of the classes that it was trained on."""
  from byoljax.data.sources import datasets

  data = scorer.config.data
  with user_errors():
    found = datasets.load(data.name, split, data_dir=data.dir, range_=data.range)
    return found.of_classes(data.classes)


def run(options: argparse.Namespace) -> int:
  """Scores what is asked for on the command line."""
  likelihood(options.run, options.count)
  return 0


def _add_flags(parser: argparse.ArgumentParser) -> None:
  parser.add_argument('--count', type=int, default=0, help='images per split (default: all)')


COMMAND = Command(
  'likelihood',
  'measure bits per dimension of test images under a generative run',
  run,
  (RUN,),
  add_flags=_add_flags,
)
