"""Images in Parquet files, as Hugging Face's data sets store them; needs pyarrow.

The column with the images holds encoded files, as bytes or as a struct with `bytes`; the column
with the labels numbers or names. What the numbers mean is in the file's metadata. A Parquet file
has no place for a single row: the images are read once, encoded, when the first is asked for.
"""

import functools
import json
from typing import Any

from byoljax.data.sources import items, memory
from byoljax.data.sources.archives import Shard


def from_parquet(path: str) -> Shard:
  """The images of a Parquet file.

  Raises:
    ValueError: pyarrow is missing, the file is damaged, has no column of images, or holds more than
      a quarter of the memory.
  """
  try:
    import pyarrow
    from pyarrow import parquet
  except ImportError as error:
    raise ValueError("Parquet files need pyarrow: pip install 'byoljax[parquet]'.") from error
  try:
    opened = parquet.ParquetFile(path)
    names = opened.schema_arrow.names
    image = next((name for name in items.IMAGE_NAMES if name in names), None)
    label = next((name for name in items.LABEL_NAMES if name in names), None)
    if image is None:
      raise ValueError(
        f'{path} has the columns {", ".join(names)}, but images are looked for as '
        f'{", ".join(items.IMAGE_NAMES)}.'
      )
    _check_size(path, opened, image)
    count = opened.metadata.num_rows
    labels = [None] * count if label is None else opened.read([label]).column(0).to_pylist()
    known = _class_names(opened.schema_arrow.metadata or {}, label)
  except (OSError, pyarrow.ArrowException) as error:
    raise ValueError(f'{path} cannot be read as Parquet: {error}.') from error

  @functools.cache
  def files() -> list[Any]:
    return parquet.read_table(path, columns=[image]).column(0).to_pylist()

  def read(place: int) -> bytes:
    cell = files()[place]
    found = cell.get('bytes') if isinstance(cell, dict) else cell
    return found if isinstance(found, bytes) else b''

  return Shard(path, [f'{row}' for row in range(count)], labels, read, known)


def _check_size(path: str, opened: Any, image: str) -> None:
  total = 0
  for group in range(opened.metadata.num_row_groups):
    about = opened.metadata.row_group(group)
    columns = (about.column(at) for at in range(about.num_columns))
    total += sum(
      each.total_uncompressed_size for each in columns if each.path_in_schema.split('.')[0] == image
    )
  if total > memory.room():
    raise ValueError(
      f'{path} holds {total / 2**30:.1f} GiB of images, more than a quarter of the memory: write '
      'smaller files, or a folder or tars, which are read image by image.'
    )


def _class_names(metadata: dict[bytes, bytes], label: str | None) -> tuple[str, ...]:
  """The names that `datasets` stores for the numbers of a class."""
  try:
    features = json.loads(metadata[b'huggingface'])['info']['features']
    return tuple(map(str, features[label]['names']))
  except (KeyError, TypeError, ValueError):
    return ()
