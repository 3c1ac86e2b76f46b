"""Image in, nearest images out: a contact sheet and a list.

byoljax embed runs/byol --data.name=folder --data.dir=photos --workdir runs/index
byoljax search runs/index holiday.jpg --out found.png
"""

import argparse
from collections.abc import Sequence
import pathlib
from typing import NamedTuple

import numpy as np

from byoljax.config import ConfigError, user_errors
from byoljax.report import table
from byoljax.tasks import embed
from byoljax.tasks.command import Argument, Command
from byoljax.tasks.embed import Part


class Found(NamedTuple):
  """The nearest images of every query, nearest first.

  Attributes:
    cosine: float64 [queries, count].
    index: int64 [queries, count], positions in the data set.
    name: str [queries, count].
  """

  cosine: np.ndarray
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

  directions = unit(queries)
  best = Found(
    np.zeros((len(queries), 0)),
    np.zeros((len(queries), 0), np.int64),
    np.zeros((len(queries), 0), '<U1'),
  )
  for path in parts:
    part: Part = embed.read_part(path)
    cosine = directions @ unit(part.features).T
    rows = (len(queries), len(part.index))
    merged = Found(
      np.concatenate([best.cosine, cosine], 1),
      np.concatenate([best.index, np.broadcast_to(part.index, rows)], 1),
      np.concatenate([best.name, np.broadcast_to(part.name, rows)], 1),
    )
    order = np.argsort(-merged.cosine, axis=1, kind='stable')[:, :count]
    best = Found(*(np.take_along_axis(column, order, 1) for column in merged))
  return best


def read_images(paths: Sequence[str], size: int) -> np.ndarray:
  """Image files as evaluation sees them: center crops, uint8 [n, size, size, 3].

  Raises:
    ConfigError: a file is not there or is no image.
  """
  from byoljax.data.batches import pipeline
  from byoljax.data.sources import arrays, image_file

  made = []
  for path in paths:
    try:
      pixels = image_file.decode(pathlib.Path(path).read_bytes())
    except OSError as error:
      raise ConfigError(f"'{path}' cannot be read: {error.strerror}.") from error
    except image_file.UnreadableImageError as error:
      raise ConfigError(f"'{path}' is no image that can be read: {error}.") from error
    one = arrays.from_arrays(pixels[None], None, name=path)
    (batch,) = pipeline.eval_batches(one, image_size=size, batch_size=1)
    made.append(batch['image'][0])
  return np.stack(made)


def search(folder: str, images: Sequence[str], out: str, count: int) -> None:
  """Prints the nearest images of each query and writes the sheet.

  Raises:
    ConfigError: no embeddings there, or a query that cannot be read.
  """
  from byoljax.data.batches import pipeline
  from byoljax.data.sources import datasets
  from byoljax.encoders import load
  from byoljax.report import sheet

  if count < 1:
    raise ConfigError(f'--count={count} must be at least 1.')
  where = pathlib.Path(folder)
  about = embed.read_index(where)
  parts = embed.read_parts(where)
  if about['format'] != 'npz' or not parts:
    raise ConfigError(f"'{folder}' has no .npz parts: embed with --format=npz to search in it.")
  queries = read_images(images, about['image_size'])
  embed_images = load.load(about['pretrained'], about['network'], about['tap'])
  found = nearest(np.asarray(embed_images(queries)), parts, count)
  for path, cosine, names in zip(images, found.cosine, found.name, strict=True):
    rows = [
      {'cosine': float(c), 'nearest to ' + path: n} for c, n in zip(cosine, names, strict=True)
    ]
    print(table.format_table(rows, list(rows[0]), formats={'cosine': '{:.3f}'}) + '\n')
  with user_errors():
    data = about['data']
    source = datasets.load(data['name'], about['split'], data_dir=data['dir'])
    if source.fingerprint != about['fingerprint']:
      raise ConfigError(f"the images of {source.name} are not those that '{folder}' was made of.")
    size, wanted = about['image_size'], np.unique(found.index)
    pictures = {}
    for batch in pipeline.eval_batches(source.subset(wanted), image_size=size, batch_size=16):
      pictures |= {
        int(wanted[i]): image
        for i, image, real in zip(batch['index'], batch['image'], batch['valid'], strict=True)
        if real
      }
    columns = [
      [pictures[int(place)] for place in found.index[:, column]]
      for column in range(found.index.shape[1])
    ]
    names = [f'{column + 1}.' for column in range(len(columns))]
    sheet.write(out, list(queries), columns, names, first='query')
  print(f'sheet  {out}')


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
    Argument('EMBEDDINGS', 'directory', 'folder of byoljax embed'),
    Argument('IMAGE', 'file', 'files to look for', many=True),
  ),
  add_flags=_add_flags,
)
