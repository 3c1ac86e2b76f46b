"""New images in, classes out: a table, and a page to look through; or masks, depth maps, boxes.

byoljax predict runs/byol photos/new --out predictions.csv --sheet sheet.html --abstain 0.6
byoljax predict runs/masks photos/new --out masks
"""

import argparse
import os
import pathlib
from typing import TYPE_CHECKING

from byoljax.config import ConfigError, expanded, path_of, user_errors
from byoljax.tasks.command import Argument, Command
from byoljax.wording import counted
from byoljax.workdir import places

if TYPE_CHECKING:
  from byoljax.data.sources.source import Source
  from byoljax.encoders.classifier import Classifier
  from byoljax.encoders.encoder import Preprocessing
  from byoljax.protocols.prediction import Predictions
  from byoljax.report.predictions import Answer

SOME_UNREADABLE = 1
_TABLE = 'predictions.csv'
_NAMED = 10  # So many files are named on the terminal.


def run(options: argparse.Namespace) -> int:
  """Classifies images; 1 where some of them could not be read, which the table says."""
  from byoljax.devices import xla
  from byoljax.encoders import classifier, detector
  from byoljax.encoders import dense as dense_lib
  from byoljax.protocols import prediction

  if not 0 <= options.abstain <= 1:
    raise ConfigError(f'--abstain={options.abstain:g} is a probability: give 0 to 1.')
  if options.batch_size < 1:
    raise ConfigError(f'--batch_size={options.batch_size} must be at least 1.')
  for name in ('out', 'sheet'):  # Shells leave the '~' of --out=~/table.csv as it is.
    setattr(options, name, path_of(f'--{name}', getattr(options, name)))
  _require_apart(options.photos, options.out or _TABLE, options.sheet)
  xla.set_defaults()
  xla.keep_programs()
  if options.sheet:
    places.require_file(options.sheet, '--sheet')
  there = expanded(options.classifier)
  if not classifier.is_one(there) and not classifier.every(there):
    if dense_lib.is_one(there):
      return _every_pixel(options)
    if detector.every(there):
      return _boxes(options)
  places.require_file(options.out or _TABLE, '--out')
  home = classifier.find(options.classifier)
  made = classifier.load(home)
  source = open_images(options.photos, made.encoder.preprocessing)
  count = len(classifier.every(there))
  note = f' (the newest of {count}; name another by its directory)' if count > 1 else ''
  print(f'classifier  {home}{note}, {len(made.classes)} classes', flush=True)
  with user_errors(f"'{options.photos}'"):
    found = prediction.predict(made, source, batch_size=options.batch_size)
  answers = write(
    options.out or _TABLE,
    options.sheet,
    made,
    source,
    found,
    options.photos,
    abstain=options.abstain,
  )
  return say(answers, made)


def _require_apart(photos: str, out: str, sheet: str) -> None:
  """Raises ConfigError where one file would replace the other, or an image."""
  from byoljax.data.sources.image_file import SUFFIXES

  images, seen = expanded(photos).resolve(), set()
  outputs = {'--out': out} | ({'--sheet': sheet} if sheet else {})
  for flag, given in outputs.items():
    path = expanded(given).resolve()
    if path in seen:
      raise ConfigError(f'--out and --sheet are both {given}: name two files.')
    inside = path.is_relative_to(images) and path.suffix.lower() in SUFFIXES
    if inside or path == images:
      raise ConfigError(
        f"{flag}={given} is or would become one of the images of '{photos}': name another place."
      )
    seen.add(path)


def _every_pixel(options: argparse.Namespace) -> int:
  """Writes masks or depth maps."""
  from byoljax.encoders import dense as dense_lib
  from byoljax.report import dense_files

  if options.abstain:
    raise ConfigError(
      f'--abstain={options.abstain:g} is for classes and boxes: masks and depth have an answer at '
      'every pixel. Leave it out.'
    )
  out = expanded(options.out or 'predictions')
  places.require_folder(out, '--out')
  home = dense_lib.find(options.classifier)
  model = dense_lib.load(home)
  source = open_images(options.photos, model.design.preprocessing)
  print(f'model  {home}, {model.kind}', flush=True)
  root = os.path.abspath(expanded(options.photos))
  with user_errors(f"'{options.photos}'"):
    count = dense_files.write(model, source, out, root, options.sheet, options.batch_size)
  print(f'predictions  {out}, {counted(count, "image")}')
  return _say_unreadable(source)


def _boxes(options: argparse.Namespace) -> int:
  """Writes the boxes that a detector finds."""
  from byoljax.encoders import detector
  from byoljax.protocols import found_boxes
  from byoljax.report import box_files

  places.require_file(options.out or _TABLE, '--out')
  home = detector.find(options.classifier)
  model = detector.load(home)
  source = open_images(options.photos, model.preprocessing)
  print(f'detector  {home}, {counted(len(model.classes), "class", "classes")}', flush=True)
  out = options.out or _TABLE
  root = os.path.abspath(expanded(options.photos))
  with user_errors(f"'{options.photos}'"):
    found = found_boxes.find(model, source, batch_size=options.batch_size)
  with user_errors(f"'{out}'"):
    least = options.abstain
    count = box_files.write(model, source, found, out, root, options.sheet, least=least)
  boxes = counted(count, 'box', 'boxes')
  print(f'predictions  {out}, {boxes} in {counted(len(found), "image")}')
  return _say_unreadable(source)


def _say_unreadable(source: 'Source') -> int:
  """Names images that cannot be read; returns the exit status."""
  broken = source.unreadable.names
  for name, reason in list(broken.items())[:_NAMED]:
    print(f'  {name} cannot be read: {reason}')
  return SOME_UNREADABLE if broken else 0


def say(answers: 'list[Answer]', made: 'Classifier') -> int:
  """Prints what was found; returns the exit status."""
  from byoljax.report import predictions

  text = predictions.summary(answers, made.classes)
  if text:
    print(text)
  broken = predictions.unreadable(answers)
  if not broken:
    return 0
  print(f'{len(broken):,} of {counted(len(answers), "image")} cannot be read (no class):')
  for each in broken[:_NAMED]:
    print(f'  {predictions.short(each.name, "")}: {each.note.partition(": ")[2]}')
  if len(broken) > _NAMED:
    print(f'  ... and {len(broken) - _NAMED:,} more; the table names all of them')
  return SOME_UNREADABLE


def write(
  out: str,
  sheet: str,
  made: 'Classifier',
  source: 'Source',
  found: 'Predictions',
  photos: str,
  *,
  abstain: float = 0.0,
) -> 'list[Answer]':
  """Writes the table and, where one is named, the page.

  Args:
    out: the table.
    sheet: the page, or ''.
    made: the classifier.
    source: the images.
    found: what it says of them.
    photos: their folder, as the user named it.
    abstain: no class is named whose probability is below this.
  """
  from byoljax.report import predictions

  root = os.path.abspath(expanded(photos))
  answers = predictions.answers(
    found.index,
    found.chances,
    made.classes,
    source.locate,
    size=source.size,
    reasons=source.unreadable.names,
    abstain=abstain,
  )
  with user_errors(f"'{out}'"):
    predictions.write_csv(out, answers, root)
  print(f'predictions  {out}')
  if sheet:
    title = f'{pathlib.PurePath(root).name}: {counted(len(answers), "image")}'
    write_sheet(sheet, title, answers, source, root, len(made.classes))
  return answers


def write_sheet(
  path: str, title: str, answers: 'list[Answer]', source: 'Source', root: str, classes: int
) -> None:
  """Writes the page of some answers about the images of a source."""
  import numpy as np

  from byoljax.protocols import prediction
  from byoljax.report import prediction_page, predictions
  from byoljax.workdir.files import replacing

  shown = prediction_page.chosen(answers)
  rows = np.array(sorted({each.row for each in shown}), np.int64)
  images = prediction.thumbnails(source, rows, prediction_page.SIDE)
  seen = [each.confidence for each in answers if each.top]
  known = [each for each in answers if each.truth and each.top]
  right = sum(each.truth == each.top[0][0] for each in known)
  facts = {
    'images': f'{len(answers):,}',
    'classes': f'{classes:,}',
    'mean probability': f'{np.mean(seen):.1%}' if seen else '',
    'right': f'{right / len(known):.1%}' if known else '',
    'without a class': f'{sum(each.note == predictions.ABSTAINED for each in answers) or ""}',
    'not readable': f'{len(predictions.unreadable(answers)) or ""}',
  }
  facts = {name: value for name, value in facts.items() if value}
  text = prediction_page.render(title, answers, shown, images, facts=facts, root=root)
  with user_errors(f"'{path}'"), replacing(path, 'w') as file:
    file.write(text)
  print(f'sheet  {path}')


def open_images(path: str, preprocessing: 'Preprocessing') -> 'Source':
  """The images of a folder with all below it, a single image file, or the arrays of an `.npz`.

  Args:
    path: of one of these.
    preprocessing: of the network that is to see them.

  Raises:
    ConfigError: none of these, or images of other channels.
  """
  source = _open(path, preprocessing.range)
  found = source.field('image').channels
  if found != preprocessing.channels:
    raise ConfigError(
      f"the images of '{path}' are read with {counted(found, 'channel')}, but this network was "
      f'trained on {preprocessing.channels}: give images like those of its training.'
    )
  return source


def _open(path: str, range_: str) -> 'Source':
  from byoljax.data.sources import arrays, folder, listed
  from byoljax.data.sources.source import NoSplitError

  where = expanded(path)
  with user_errors():
    if where.suffix == '.npz':
      try:
        return arrays.from_npz(where, 'test', range_=range_)
      except NoSplitError:
        return arrays.from_npz(where, 'pretrain', range_=range_)
    if where.is_file():
      return listed.from_files([where], name=where.name, range_=range_)
    if not where.is_dir():
      raise ConfigError(f"there is no folder or image '{path}'.")
    files = [where / file for file in folder.every_image(where)]
    return listed.from_files(files, name=where.name, range_=range_)


def _add_flags(parser: argparse.ArgumentParser) -> None:
  parser.add_argument('--out', default='', metavar='FILE',
                      help='the table (default: predictions.csv); for masks and depth a folder '
                           '(default: predictions)')  # fmt: skip
  parser.add_argument('--sheet', default='', metavar='FILE',
                      help='an HTML page with the images; for masks and depth a PNG')  # fmt: skip
  parser.add_argument('--abstain', type=float, default=0.0, metavar='P',
                      help='name no class if its probability is below P; list no box')  # fmt: skip
  parser.add_argument('--batch_size', type=int, default=128, help='images at a time (default: 128)')


COMMAND = Command(
  'predict',
  'predict classes, masks, depth or boxes of new images',
  run,
  (
    Argument(
      'CLASSIFIER',
      'directory',
      'a run, an evaluation, a classifier, a detector, or a model of masks or depth',
    ),
    Argument('PHOTOS', 'directory', 'a folder of images, one image, or an .npz file'),
  ),
  add_flags=_add_flags,
)
