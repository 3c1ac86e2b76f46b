"""Images in tables, as Hugging Face's data sets store them: Parquet and Arrow files; needs pyarrow.

The column with the images holds encoded files, as bytes or as a struct with `bytes` and `path`; the
column with the labels numbers or names. Which columns these are, and what the numbers mean, is in
the file's metadata; of a file without it, in the names of the columns. A column of lists, several
labels an image, is no label here.

An Arrow file, of `Dataset.save_to_disk` or of the cache of `datasets`, is mapped, and an image read
where it lies. A Parquet file has no place for a single row: its images are read once, encoded, when
the first is asked for.
"""

from collections.abc import Callable
import functools
import json
import os
import threading
from typing import Any

from byoljax.data.sources import items, source
from byoljax.data.sources.archives import Shard
from byoljax.data.sources.label_values import read_label

PARQUET, ARROW = '.parquet', '.arrow'
INFO = 'dataset_info.json'
_METADATA = b'huggingface'


def from_table(path: str) -> Shard:
  """The images of a Parquet or an Arrow file.

  Raises:
    ValueError: pyarrow is missing, the file is damaged, or has no column of images.
  """
  what = 'Parquet' if path.lower().endswith(PARQUET) else 'Arrow'
  require_pyarrow(what)
  import pyarrow

  try:
    return _from_parquet(path) if what == 'Parquet' else _from_arrow(path)
  except (OSError, pyarrow.ArrowException) as error:
    raise ValueError(f'{path} cannot be read as {what}: {error}.') from error


def require_pyarrow(what: str) -> None:
  """Raises ValueError, with the extra's name, where pyarrow is missing."""
  try:
    import pyarrow  # noqa: F401
  except ImportError as error:
    raise ValueError(f"{what} files need pyarrow: pip install 'byoljax[parquet]'.") from error


def _from_parquet(path: str) -> Shard:
  from pyarrow import parquet

  with parquet.ParquetFile(path) as opened:
    image, label, classes = _columns(path, opened.schema_arrow)
    held = _size(opened, image)
    count = opened.metadata.num_rows
    labels = [None] * count if label is None else opened.read([label]).column(0).to_pylist()

  lock = threading.Lock()

  @functools.cache
  def files() -> list[Any]:
    return parquet.read_table(path, columns=[image]).column(0).to_pylist()

  def cell(place: int) -> Any:
    with lock:  # Threads ask at once, and each would read all of it.
      found = files()
    return found[place]

  return _shard(path, labels, cell, classes, held)


def _from_arrow(path: str) -> Shard:
  import pyarrow

  mapped = pyarrow.memory_map(path)
  try:
    table = pyarrow.ipc.open_stream(mapped).read_all()
  except pyarrow.ArrowInvalid:  # Of a file with an index at its end, as other libraries write.
    table = pyarrow.ipc.open_file(mapped).read_all()
  image, label, classes = _columns(path, table.schema)
  images = table.column(image)
  labels = [None] * len(images) if label is None else table.column(label).to_pylist()
  return _shard(path, labels, lambda place: images[place].as_py(), classes)


def _shard(
  path: str,
  labels: list[Any],
  cell: Callable[[int], Any],
  classes: tuple[str, ...],
  held: int = 0,
) -> Shard:
  def read(place: int) -> bytes:
    found = cell(place)
    if isinstance(found, dict):
      beside = found.get('path')
      found = found.get('bytes') or (beside and source.bytes_of(_beside(path, beside)))
    return found if isinstance(found, bytes) else b''

  known = {label: read_label(label, path) for label in set(labels)}
  names = [f'{row}' for row in range(len(labels))]
  return Shard(path, names, [known[label] for label in labels], read, classes, held)


def _beside(path: str, image: str) -> str:
  """The path of an image that a table names but does not hold."""
  return os.path.join(os.path.dirname(path), image)


def _columns(path: str, schema: Any) -> tuple[str, str | None, tuple[str, ...]]:
  """The columns of the images and of the labels, and the names of the classes."""
  import pyarrow

  features = _features(path, schema.metadata or {})
  kinds = {name: about.get('_type') for name, about in features.items() if name in schema.names}
  image = _first([n for n in schema.names if kinds.get(n) == 'Image'], items.IMAGE_NAMES)
  image = image or next((name for name in items.IMAGE_NAMES if name in schema.names), None)
  if image is None:
    raise ValueError(
      f'{path} has the columns {", ".join(schema.names)}, but images are looked for as '
      f'{", ".join(items.IMAGE_NAMES)}.'
    )
  if not _holds_files(schema.field(image).type):
    raise ValueError(
      f"{path}: the column '{image}' holds {schema.field(image).type}, not encoded images as bytes."
    )
  types = pyarrow.types
  single = [
    name
    for name in schema.names
    if types.is_integer(schema.field(name).type) or types.is_string(schema.field(name).type)
  ]
  label = _first([name for name in single if kinds.get(name) == 'ClassLabel'], items.LABEL_NAMES)
  label = label or next((name for name in items.LABEL_NAMES if name in single), None)
  names = features.get(label or '', {}).get('names')
  return image, label, tuple(map(str, names)) if isinstance(names, list) else ()


def _first(names: list[str], preferred: tuple[str, ...]) -> str | None:
  """The first of the preferred names that is there, else the first of all."""
  return next((name for name in preferred if name in names), names[0] if names else None)


def _holds_files(kind: Any) -> bool:
  import pyarrow

  types = pyarrow.types
  if types.is_struct(kind):
    return kind.get_field_index('bytes') >= 0
  return types.is_binary(kind) or types.is_large_binary(kind)


def _features(path: str, metadata: dict[bytes, bytes]) -> dict[str, dict[str, Any]]:
  """What `datasets` says of the columns: in the file, or in one beside it."""
  try:
    found = json.loads(metadata[_METADATA])['info']['features']
  except (KeyError, TypeError, ValueError):
    try:
      found = json.loads(source.bytes_of(os.path.join(os.path.dirname(path), INFO)))['features']
    except (KeyError, TypeError, ValueError):
      found = None
  known = found if isinstance(found, dict) else {}
  return {name: about for name, about in known.items() if isinstance(about, dict)}


def _size(opened: Any, image: str) -> int:
  """Bytes of the images of a Parquet file, encoded, in memory."""
  total = 0
  for group in range(opened.metadata.num_row_groups):
    about = opened.metadata.row_group(group)
    columns = (about.column(at) for at in range(about.num_columns))
    total += sum(
      each.total_uncompressed_size for each in columns if each.path_in_schema.split('.')[0] == image
    )
  return total
