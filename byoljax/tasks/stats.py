"""What a recipe's images are like: how many, how large, of which classes, their mean and spread."""

import pathlib

import numpy as np

from byoljax.config import Config, user_errors
from byoljax.tasks import data as data_lib
from byoljax.tasks.command import RECIPE, Command
from byoljax.wording import counted
from byoljax.workdir import activity
from byoljax.workdir.run_dir import Invocation, say

# Shorter sides above so many times the side of evaluated images are worth shrinking beforehand.
_LARGE = 8


def run(config: Config, invocation: Invocation) -> int:
  """Prints the statistics of the images that a configuration pretrains on."""
  from byoljax.data.batches import statistics

  where = pathlib.Path(invocation.workdir) if invocation.workdir else None
  source = data_lib.open_split(config, 'pretrain', where, resolve=False)
  side = config.evals.image_size
  with user_errors('config.data'), activity.doing('looking at the images'):
    found = statistics.of_channels(source, side, threads=config.data.threads)
    sides = statistics.shorter_sides(source) if source.series is None else np.zeros(0, np.int32)
  channels = counted(source.channels, 'channel')
  say(f'{counted(source.size, "image")} of {source.name}, {channels}{sizes(sides)}')
  if len(sides) and sides[len(sides) // 2] > _LARGE * side:
    say(f'far more than {side} pixels need: copies of some {4 * side} are decoded much faster')
  if source.num_classes and not source.multi_label and source.labels is not None:
    counts = np.bincount(source.labels[source.labels >= 0], minlength=source.num_classes)
    unknown = int((source.labels < 0).sum())
    say(
      f'{counted(source.num_classes, "class", "classes")} of {counts.min():,} to '
      + counted(counts.max(), 'image')
      + (f', and {counted(unknown, "image")} without a label' if unknown else '')
    )
  if len(source.unreadable):
    say(f'{len(source.unreadable)} of those looked at cannot be read')
  crops = counted(found.images, 'center crop')
  say(f'mean and standard deviation of {crops} of {side} pixels:')
  say(f"  --data.mean='{_text(found.mean)}' --data.std='{_text(found.std)}'")
  return 0


def sizes(sides: np.ndarray) -> str:
  """Of the shorter sides in pixels, ascending; '' where no image could be read."""
  if not len(sides) or sides[0] == sides[-1]:
    return f', {sides[0]} pixels (shorter side)' if len(sides) else ''
  typical = f'{sides[0]} to {sides[-1]} pixels, typically {sides[len(sides) // 2]}'
  return f', {typical} (shorter side, of {len(sides)} images)'


def _text(numbers: tuple[float, ...]) -> str:
  text = ', '.join(f'{number:g}' for number in numbers)
  return f'({text},)' if len(numbers) == 1 else f'({text})'


COMMAND = Command(
  'stats',
  'print mean and standard deviation of the images of a recipe',
  run,
  (RECIPE,),
  task='stats',
  workdir='nowhere',
  overrides=(('task', 'stats'),),
)
