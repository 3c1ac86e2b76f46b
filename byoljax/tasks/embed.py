"""Features of a whole data set in files, with the names of its images.

    <folder>/index.json        what was embedded by what, how many rows of how many numbers
    <folder>/part-00000.npz    features float32 [n, D], index int64 [n], label int32 [n], name [n]

Parts are written one after the other, each at once, so an interrupted job resumes where it stopped.
Images that cannot be read have no row. Of images with several labels each, `label` is int32 [n, C]:
1, 0 or -1 for every class. CSV and Parquet hold the same columns; in CSV each class then has its
own, 'label0', 'label1', ..., and in Parquet 'label' is a list.
"""

from collections.abc import Mapping
import csv
import dataclasses
import io
import json
import pathlib
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from byoljax.config import Config, ConfigError, choose, expanded, user_errors
from byoljax.devices import hosts
from byoljax.report.predictions import short
from byoljax.tasks import evaluation
from byoljax.tasks.command import Command
from byoljax.version import versions
from byoljax.wording import counted
from byoljax.workdir.files import replacing, write_json
from byoljax.workdir.run_dir import Invocation, say

if TYPE_CHECKING:
  from byoljax.data.sources.source import Source
  from byoljax.encoders.encoder import Encoder
  from byoljax.evals.features import Extract

INDEX = 'index.json'
FORMATS = ('npz', 'csv', 'parquet')
# What `search` needs of the index.
_FIELDS = {
  'pretrained', 'network', 'tap', 'data', 'split', 'fingerprint', 'image_size', 'format',
  'part_size', 'images',
}  # fmt: skip


class Part(NamedTuple):
  """Rows of one file.

  Attributes:
    features: float32 [n, D].
    index: int64 [n], positions in the data set.
    label: int32 [n], -1 where unknown; or [n, C], see the module.
    name: str [n], files or records.
  """

  features: np.ndarray
  index: np.ndarray
  label: np.ndarray
  name: np.ndarray


def run(config: Config, invocation: Invocation) -> int:
  """Embeds a data set; see `configs/embed.py`."""
  from byoljax.data.sources import datasets
  from byoljax.encoders import codec, load
  from byoljax.protocols import extraction

  choose('format', config.format, FORMATS)
  if config.format == 'parquet':
    _require_pyarrow()
  if config.part_size < 1:
    raise ConfigError(f'part_size={config.part_size} must be at least 1.')
  encoder, source_config, directory = load.load_encoder(
    config.pretrained, config.network, config.tap
  )
  data = source_config.data
  name = config.data.name or data.name
  where = config.data.dir or ('' if config.data.name else data.dir)
  what = [
    evaluation.data_words(name, config.data.dir),
    config.split,
    *evaluation.tap_suffix(config),
  ]
  folder = pathlib.Path(
    invocation.workdir or directory.parent.parent / 'embeddings' / '-'.join(what)
  )
  with user_errors():
    source = datasets.load(
      name, config.split, data_dir=where, unreadable_log=folder, range_=data.range
    )
  size = config.image_size or source_config.evals.image_size
  about = {
    'pretrained': str(directory.resolve()),
    'network': config.network,
    'weights': codec.digest((encoder.params, encoder.bn)),
    'tap': config.tap,
    'data': {
      'name': name,
      'dir': where and str(expanded(where).resolve()),
      'range': data.range,
    },
    'split': config.split,
    'fingerprint': source.fingerprint,
    'image_size': size,
    'format': config.format,
    'part_size': config.part_size,
    'images': source.size,
    'class_names': list(source.class_names),
  }
  _open(folder, about)
  extract = extraction.extractor(encoder)
  parts = parts_of(about)
  done = 0
  for number in range(parts):
    path = folder / f'part-{number:05d}.{config.format}'
    if path.exists():
      done += 1
      continue
    rows = np.arange(number * config.part_size, min((number + 1) * config.part_size, source.size))
    part = _embed(extract, encoder, source.subset(rows), rows, size, config)
    if hosts.is_first_process():
      _write(part, path, config.format)
    say(f'{path.name}  {len(part.features):,} of {counted(len(rows), "image")}')
  if done:
    say(f'There already: {done} of {counted(parts, "part")}.')
  say(f'embeddings  {folder}')
  return 0


def _embed(
  extract: 'Extract',
  encoder: 'Encoder',
  source: 'Source',
  rows: np.ndarray,
  image_size: int,
  config: Config,
) -> Part:
  import jax

  from byoljax.data.batches import pipeline
  from byoljax.evals import features
  from byoljax.protocols import extraction

  batches = pipeline.eval_batches(
    source,
    image_size=image_size,
    batch_size=extraction.fit_to_devices(config.batch_size),
    process_index=jax.process_index(),
    process_count=jax.process_count(),
    threads=config.data.threads,
  )
  labels = source.labels
  batches = features.with_index_as_label(extraction.watched(batches, source))
  try:
    found, index = extract(encoder.params, encoder.bn, batches)
  except features.NoExampleError:  # A part without rows, so that the job ends.
    seen = encoder.preprocessing._replace(image_size=image_size)
    dim = dataclasses.replace(encoder, preprocessing=seen).dim
    found, index = np.zeros((0, dim), np.float32), np.zeros(0, np.int64)
  names = np.array([source.locate(int(i)) for i in index], str)
  known = np.full(len(index), -1, np.int32) if labels is None else labels[index].astype(np.int32)
  return Part(found, rows[index], known, names)


def _open(folder: pathlib.Path, about: Mapping[str, Any]) -> None:
  """Makes the folder, or checks that it holds this very job.

  Raises:
    ConfigError: it cannot be written, or holds another job.
  """
  path = folder / INDEX
  if path.exists():
    stored = read_index(folder)
    other = [name for name, value in about.items() if stored.get(name, value) != value]
    if other:
      raise ConfigError(
        f"'{folder}' holds other embeddings: {', '.join(other)} differ. Choose another --workdir."
      )
    return
  if hosts.is_first_process():
    with user_errors('--workdir'):
      folder.mkdir(parents=True, exist_ok=True)
      write_json(path, {**about, 'versions': versions()})


def read_index(folder: pathlib.Path) -> dict[str, Any]:
  """What a folder of embeddings holds.

  Raises:
    ConfigError: it is none.
  """
  try:
    about = json.loads((folder / INDEX).read_text())
    if not about.keys() >= _FIELDS:
      raise ValueError
    return about
  except (OSError, ValueError, AttributeError) as error:
    raise ConfigError(
      f"'{folder}' holds no embeddings: `byoljax embed RUN` writes a folder with {INDEX}."
    ) from error


def parts_of(about: Mapping[str, Any]) -> int:
  """How many parts a finished job has, by its index."""
  return -(-about['images'] // about['part_size'])


def read_parts(folder: pathlib.Path) -> list[pathlib.Path]:
  """The parts that are there, in order."""
  return sorted(path for path in folder.glob('part-*') if path.suffix != '.tmp')


def read_part(path: pathlib.Path) -> Part:
  """Reads an NPZ part.

  Raises:
    ConfigError: it is damaged.
  """
  from byoljax.encoders import stored_arrays

  try:
    stored = stored_arrays.read(path)
    return Part(*(stored[name] for name in Part._fields))
  except (OSError, ValueError, KeyError, AttributeError) as error:
    raise ConfigError(
      f"'{path}' cannot be read ({error}): delete it, and the same `byoljax embed` makes it anew."
    ) from error


def _write(part: Part, path: pathlib.Path, kind: str) -> None:
  """Writes a part so that it is there whole or not at all."""
  with user_errors('--workdir'), replacing(path) as file:
    file.write({'npz': _npz, 'csv': _csv, 'parquet': _parquet}[kind](part))


def _npz(part: Part) -> bytes:
  file = io.BytesIO()
  np.savez(file, **part._asdict())  # type: ignore[arg-type]
  return file.getvalue()


def _csv(part: Part) -> bytes:
  file = io.StringIO(newline='')
  writer = csv.writer(file)
  several = part.label.ndim == 2
  labels = [f'label{i}' for i in range(part.label.shape[1])] if several else ['label']
  writer.writerow(['name', 'index', *labels, *(f'f{i}' for i in range(part.features.shape[1]))])
  for row, index, label, name in zip(*part, strict=True):
    # Nine digits tell every float32 from its neighbors.
    numbers = (f'{value:.9g}' for value in row)
    writer.writerow([short(name, ''), index, *np.atleast_1d(label), *numbers])
  return file.getvalue().encode()


def _parquet(part: Part) -> bytes:
  import pyarrow
  from pyarrow import parquet

  width = part.features.shape[1]
  flat = pyarrow.array(part.features.reshape(-1))
  table = pyarrow.table(
    {
      'name': pyarrow.array([short(name, '') for name in part.name.tolist()]),
      'index': pyarrow.array(part.index),
      'label': pyarrow.array(list(part.label), None if len(part.label) else pyarrow.int32()),
      'features': pyarrow.FixedSizeListArray.from_arrays(flat, width),
    }
  )
  file = io.BytesIO()
  parquet.write_table(table, file)
  return file.getvalue()


def _require_pyarrow() -> None:
  try:
    import pyarrow  # noqa: F401
  except ImportError as error:
    raise ConfigError(
      "format=parquet needs pyarrow: pip install 'byoljax[parquet]', or take npz or csv."
    ) from error


COMMAND = Command(
  'embed',
  'write the features of a whole data set to files',
  run,
  task='embed',
  recipe='embed',
  field='pretrained',
  workdir='RUN/embeddings/<data>-<split>',
)
