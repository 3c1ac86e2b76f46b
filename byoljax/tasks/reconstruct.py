"""What a trained method makes of one's own photographs, as one sheet."""

import argparse
from collections.abc import Sequence
import dataclasses
import pathlib
from typing import TYPE_CHECKING

from byoljax.config import ConfigError, user_errors
from byoljax.report import table
from byoljax.tasks import data as data_lib
from byoljax.tasks import image_files
from byoljax.tasks.command import RUN, Argument, Command
from byoljax.wording import counted
from byoljax.workdir.run_dir import say

if TYPE_CHECKING:
  from byoljax.encoders.pictures import Painter, Shown

_CELL = 160


def reconstruct(
  run: str, images: Sequence[str], out: str, *, size: int = 0, count: int = 16
) -> None:
  """Draws one row an image: the image, what was left of it, and what the network made of that.

  The quality of each is printed, against the image or the method's own target.

  Args:
    run: a run's directory, or one of its checkpoints/<step>.
    images: files and folders.
    out: the sheet, a PNG.
    size: side of the images in pixels; 0: of those that the run was evaluated on.
    count: of the images at most; the first ones are taken.

  Raises:
    ConfigError: a run that gives nothing back, images that cannot be read, a size that does not
      suit the network, or a place that cannot be written.
  """
  from byoljax.encoders import pictures
  from byoljax.report import reconstructions
  from byoljax.workdir import checkpoint

  if count < 1 or size < 0:
    raise ConfigError(f'--count={count} must be at least 1 and --size={size} at least 0.')
  with user_errors():
    directory = checkpoint.checkpoint_directory(run)
  painter = pictures.require_painter(directory.parent.parent)
  data_lib.require_sheet(out, painter.config.data)
  files = image_files.named(images)
  if len(files) > count:
    say(f'The first {count} of {len(files)} images: --count={len(files)} shows all.')
    files = files[:count]
  shown = _painted(painter, int(directory.name), files, size)
  names = [pathlib.PurePath(file).name for file in files]
  with user_errors('--out'):
    reconstructions.draw(out, {int(directory.name): shown}, names=names, cell=_CELL)
  say(_quality(shown, names))
  say(f'sheet  {out}')


def _painted(painter: 'Painter', step: int, files: Sequence[str], size: int) -> 'Shown':
  from byoljax.data.sources import arrays

  own = painter.preprocessing.image_size
  preprocessing = painter.preprocessing._replace(image_size=size or own)
  painter = dataclasses.replace(painter, preprocessing=preprocessing)
  source = arrays.from_arrays(
    image_files.read(files, preprocessing.image_size, preprocessing.range), None, name='the images'
  )
  try:
    return painter.paint(step, painter.batch(source), source)
  except ConfigError:
    raise
  except Exception as error:  # Of any kind: a network says in its own way that it does not fit.
    if size in (0, own):
      raise
    reason = str(error).splitlines()[0]
    raise ConfigError(
      f'--size={size}: this network takes images of {own} pixels only ({reason}).'
    ) from error


def _quality(shown: 'Shown', names: Sequence[str]) -> str:
  from byoljax.report import reconstructions

  found = reconstructions.quality(shown)
  if not found:
    return f'{counted(len(names), "image")}; nothing that is shown can be compared with them.'
  columns = {
    f'{kind.upper()}, {name}': values
    for name, kinds in found.items()
    for kind, values in kinds.items()
  }
  rows = [
    {'image': name} | {column: float(values[row]) for column, values in columns.items()}
    for row, name in enumerate(names)
  ]
  rows.append({'image': 'mean'} | {column: float(v.mean()) for column, v in columns.items()})
  formats = {column: '{:.2f}' if 'PSNR' in column else '{:.3f}' for column in columns}
  return table.format_table(rows, ['image', *columns], formats=formats)


def run(options: argparse.Namespace) -> int:
  """Shows the images that are named on the command line."""
  reconstruct(options.run, options.image, options.out, size=options.size, count=options.count)
  return 0


def _add_flags(parser: argparse.ArgumentParser) -> None:
  parser.add_argument(
    '--out', default='reconstructions.png', help='the sheet (default: reconstructions.png)'
  )
  parser.add_argument(
    '--size', type=int, default=0, help='side of the images in pixels (default: as in evaluations)'
  )
  parser.add_argument('--count', type=int, default=16, help='images at most (default: 16)')


COMMAND = Command(
  'reconstruct',
  'show what a reconstruction run makes of your photographs',
  run,
  (RUN, Argument('IMAGE', 'file', 'files, or folders of images', many=True)),
  add_flags=_add_flags,
)
