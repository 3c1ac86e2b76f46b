"""Image in, nearest images out: a contact sheet and a list.

byoljax embed runs/byol --data.name=folder --data.dir=photos --workdir runs/index
byoljax search runs/index holiday.jpg --out found.png
"""

import argparse
from collections.abc import Mapping, Sequence
import pathlib
from typing import Any, NamedTuple

import numpy as np

from byoljax.config import ConfigError, expanded, user_errors
from byoljax.report import table
from byoljax.report.predictions import short
from byoljax.tasks import data as data_lib
from byoljax.tasks import embed, image_files
from byoljax.tasks.command import Argument, Command
from byoljax.tasks.embed import Part


class Found(NamedTuple):
  """The nearest images of every query, nearest first.

  Attributes:
    cosine: float64 [queries, count].
    centered: float64 [queries, count], cosine after the mean of all images was taken from both: 0
      for unrelated images, where cosines of the features themselves may all be near 1.
    index: int64 [queries, count], positions in the data set.
    name: str [queries, count].
  """

  cosine: np.ndarray
  centered: np.ndarray
  index: np.ndarray
  name: np.ndarray


def nearest(queries: np.ndarray, parts: Sequence[pathlib.Path], count: int) -> Found:
  """Rows with the largest cosine, one part in memory at a time.

  Args:
    queries: features [q, D].
    parts: files of `byoljax embed`.
    count: how many; fewer come back where there are fewer.
  """
  from byoljax.evals.hypersphere import unit

  mean, rows = np.zeros(queries.shape[1]), 0
  for path in parts:
    part: Part = embed.read_part(path)
    mean, rows = mean + part.features.sum(0, dtype=np.float64), rows + len(part.features)
  mean /= max(rows, 1)
  best = Found(
    np.zeros((len(queries), 0)),
    np.zeros((len(queries), 0)),
    np.zeros((len(queries), 0), np.int64),
    np.zeros((len(queries), 0), '<U1'),
  )
  for path in parts:
    part = embed.read_part(path)
    cosine = unit(queries) @ unit(part.features).T
    centered = unit(queries - mean) @ unit(part.features - mean).T
    # Those of the part alone first: names are long, and only the nearest are needed.
    top = np.argsort(-cosine, axis=1, kind='stable')[:, :count]
    cosine, centered = (np.take_along_axis(column, top, 1) for column in (cosine, centered))
    new = Found(cosine, centered, part.index[top], part.name[top])
    merged = Found(*(np.concatenate(pair, 1) for pair in zip(best, new, strict=True)))
    order = np.argsort(-merged.cosine, axis=1, kind='stable')[:, :count]
    best = Found(*(np.take_along_axis(column, order, 1) for column in merged))
  return best


def search(folder: str, images: Sequence[str], out: str, count: int) -> None:
  """Prints the nearest images of each query and writes the sheet; the query itself is left out.

  Raises:
    ConfigError: no embeddings there, of other weights than those that the run has now, or a query
      that cannot be read.
  """
  from byoljax.encoders import codec, load
  from byoljax.report import sheet

  if count < 1:
    raise ConfigError(f'--count={count} must be at least 1.')
  where, out = expanded(folder), str(expanded(out))
  about = embed.read_index(where)
  parts = embed.read_parts(where)
  if about['format'] != 'npz':
    raise ConfigError(f"'{folder}' has no .npz parts: embed with --format=npz to search in it.")
  wanted = embed.parts_of(about)
  if len(parts) < wanted:
    raise ConfigError(
      f"'{folder}' is unfinished: {len(parts)} of {wanted} parts are there. The same "
      '`byoljax embed` again makes the others.'
    )
  data_lib.require_sheet(out, about['data'])
  queries = image_files.read(images, about['image_size'], about['data']['range'])
  embed_images = load.load(about['pretrained'], about['network'], about['tap'])
  made_of = codec.digest((embed_images.params, embed_images.bn))
  if about.get('weights', made_of) != made_of:  # Those of earlier versions do not say it.
    raise ConfigError(
      f"'{folder}' was made with other weights than '{about['pretrained']}' has now: embed again, "
      'into another --workdir.'
    )
  found = nearest(np.asarray(embed_images(queries)), parts, count + _SPARE)
  found = found._replace(name=_printable(found.name))
  pictures = _pictures(folder, about, np.unique(found.index))
  kept = []
  for row, (path, query) in enumerate(zip(images, queries, strict=True)):
    own = Found(*(column[row] for column in found))
    same = np.array([np.array_equal(pictures[int(i)], query) for i in own.index], bool)
    kept.append(Found(*(column[~same][:count] for column in own)))
    print(_table(short(path, ''), kept[-1]))
    print(''.join(f'(not shown: {name} is the query itself)\n' for name in own.name[same]))
  # A sheet is a rectangle: as many as every query has.
  ranks = range(min(len(each.index) for each in kept))
  if not ranks:
    raise ConfigError(f"'{folder}' has no other image than the query.")
  with user_errors():
    sheet.write(
      out,
      list(queries),
      [[pictures[int(each.index[rank])] for each in kept] for rank in ranks],
      [f'{rank + 1}.' for rank in ranks],
      first='query',
      captions=[
        [pathlib.PurePath(short(path, '')).name for path in images],
        *([_caption(each, rank) for each in kept] for rank in ranks),
      ],
      cell=_CELL,
    )
  print(f'sheet  {out}  (numbers: centered cosine, 0 for unrelated images)')


# The query may be among the images, more than once; so many further images are looked up.
_SPARE = 4
_CELL = 160


def _printable(names: np.ndarray) -> np.ndarray:
  return np.array([[short(name, '') for name in row] for row in names], str)


def _table(path: str, found: Found) -> str:
  rows = [
    {'cosine': float(cosine), 'centered': float(centered), f'nearest to {path}': str(name)}
    for cosine, centered, _, name in zip(*found, strict=True)
  ]
  formats = {'cosine': '{:.3f}', 'centered': '{:.3f}'}
  return table.format_table(rows, [*formats, f'nearest to {path}'], formats=formats)


def _caption(found: Found, rank: int) -> str:
  return f'{found.centered[rank]:.2f}  {pathlib.PurePath(found.name[rank]).name}'


def _pictures(folder: str, about: Mapping[str, Any], wanted: np.ndarray) -> dict[int, np.ndarray]:
  """The images at these positions as the encoder saw them.

  Raises:
    ConfigError: they are not those that were embedded.
  """
  from byoljax.data.batches import pipeline
  from byoljax.data.sources import datasets

  if not len(wanted):
    return {}
  with user_errors():
    data = about['data']
    source = datasets.load(data['name'], about['split'], data_dir=data['dir'], range_=data['range'])
    if source.fingerprint != about['fingerprint']:
      raise ConfigError(f"the images of {source.name} are not those that '{folder}' was made of.")
    pictures = {}
    for batch in pipeline.eval_batches(
      source.subset(wanted), image_size=about['image_size'], batch_size=16
    ):
      pictures |= {
        int(wanted[i]): image
        for i, image, real in zip(batch['index'], batch['image'], batch['valid'], strict=True)
        if real
      }
    return pictures


def run(options: argparse.Namespace) -> int:
  """Searches with the files that are named on the command line."""
  search(options.embeddings, options.image, options.out, options.count)
  return 0


def _add_flags(parser: argparse.ArgumentParser) -> None:
  parser.add_argument('--out', default='found.png', help='the contact sheet (default: found.png)')
  parser.add_argument('--count', type=int, default=8, help='images per query (default: 8)')


COMMAND = Command(
  'search',
  'find the nearest images of an image',
  run,
  (
    Argument('EMBEDDINGS', 'directory', 'a folder written by byoljax embed'),
    Argument('IMAGE', 'file', 'image files to search for', many=True),
  ),
  add_flags=_add_flags,
)
