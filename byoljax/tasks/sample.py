"""New images that a trained generative method draws, as one sheet."""

import argparse
from typing import TYPE_CHECKING

from byoljax.config import ConfigError, user_errors
from byoljax.suggest import unknown
from byoljax.tasks import data as data_lib
from byoljax.tasks.command import RUN, Command
from byoljax.wording import counted
from byoljax.workdir.run_dir import say

if TYPE_CHECKING:
  from byoljax.encoders.samples import Sampler

_MOST = 10_000  # images on a sheet


def sample(
  run: str,
  out: str,
  *,
  count: int = 64,
  seed: int = 0,
  temperature: float = 1.0,
  top_k: int = 0,
  top_p: float = 1.0,
  image_class: str = '',
) -> None:
  """Draws images and shows them side by side.

  Args:
    run: a run's directory, or one of its checkpoints/<step>.
    out: the sheet, a PNG.
    count: how many, up to 10,000.
    seed: the same one gives the same images.
    temperature: see `ops.sampling.Sampling`, as `top_k` and `top_p`.
    top_k: 0 for all values.
    top_p: 1 for all values.
    image_class: the class of all of them, its name or its number; '' for any.

  Raises:
    ConfigError: a run that draws nothing, a value out of range, or a place that cannot be written.
  """
  from byoljax.encoders import samples
  from byoljax.ops.sampling import Sampling
  from byoljax.report import drawn
  from byoljax.workdir import checkpoint

  if count > _MOST:
    raise ConfigError(
      f'--count={count} must be at most {_MOST}, on one sheet: draw several with other seeds.'
    )
  with user_errors():
    directory = checkpoint.checkpoint_directory(run)
  sampler = samples.require_sampler(directory.parent.parent)
  data_lib.require_sheet(out, sampler.config.data)
  images = sampler.draw(
    int(directory.name),
    Sampling(count, temperature=temperature, top_k=top_k, top_p=top_p),
    seed=seed,
    condition=_class_of(sampler, image_class),
  )
  with user_errors('--out'):
    drawn.grid(out, sampler.as_pictures(images))
  say(f'{counted(count, "image")} of {sampler.size} x {sampler.size} pixels')
  say(f'sheet  {out}')


def _class_of(sampler: 'Sampler', name: str) -> int | None:
  """The number of a class of the run's images.

  Raises:
    ConfigError: there is no such class, or the run was trained without it.
  """
  from byoljax.data.sources import datasets

  if not name:
    return None
  data = sampler.config.data
  with user_errors():
    source = datasets.load(data.name, 'train', data_dir=data.dir, range_=data.range)
  names = list(source.class_names) or [str(number) for number in range(source.num_classes)]
  numbers = {str(i): i for i in range(len(names))} | {each: i for i, each in enumerate(names)}
  learned = data.classes or range(len(names))
  if numbers.get(name) not in learned:
    raise ConfigError(unknown('class', name, [names[i] for i in learned]))
  return numbers[name]


def run(options: argparse.Namespace) -> int:
  """Draws what is asked for on the command line."""
  sample(
    options.run,
    options.out,
    count=options.count,
    seed=options.seed,
    temperature=options.temperature,
    top_k=options.top_k,
    top_p=options.top_p,
    image_class=options.image_class,
  )
  return 0


def _add_flags(parser: argparse.ArgumentParser) -> None:
  add = parser.add_argument
  add('--out', default='samples.png', help='the sheet (default: samples.png)')
  add('--count', type=int, default=64, help='number of images (default: 64)')
  add('--class', dest='image_class', default='', help='the class of all images, by name or number')
  add('--temperature', type=float, default=1.0, help='below 1: more probable images (default: 1)')
  add('--top_k', type=int, default=0, help='draw from this many likeliest values (default: 0, all)')
  add('--top_p', type=float, default=1.0, help='draw from this much probability (default: 1, all)')
  add('--seed', type=int, default=0, help='random seed (default: 0)')


COMMAND = Command(
  'sample',
  'draw new images from a generative run',
  run,
  (RUN,),
  add_flags=_add_flags,
)
