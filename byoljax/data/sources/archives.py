"""Images in zip and tar files, read where they lie: nothing is unpacked.

A member of a zip or a tar is a span of the file, found once, at the start; an image is read by one
seek, by any thread. So a tar must not be compressed as a whole (`.tar.gz`): it can only be read
from its beginning. In WebDataset's tars the files of an example have one name: `a/17.jpg` and
`a/17.cls`, with the number or the name of its class, or `a/17.json` with these under one of the
names in `items.LABEL_NAMES`. The name ends at its first dot, and further images of an example, such
as `a/17.seg.png`, are no images of the set.
"""

from collections.abc import Callable, Iterator, Sequence
import json
import os
import tarfile
from typing import NamedTuple
import zipfile
import zlib

from byoljax.data.sources.image_file import SUFFIXES
from byoljax.data.sources.items import LABEL_NAMES
from byoljax.data.sources.label_values import read_label

LABEL_SUFFIXES = ('.json', '.cls')  # The last one that is there is taken.
# What is raised about a damaged file: the last three by damaged versions and names in a zip.
_DAMAGED = (
  *(OSError, EOFError, tarfile.TarError, zipfile.BadZipFile),
  *(NotImplementedError, UnicodeDecodeError, IndexError),
)
_NONE = 'None'  # what WebDataset writes into a `.cls` for no label
_MAIN = ('jpg', 'jpeg', 'webp', 'png')  # The first one that is there is an example's image.
_LOCAL_HEADER = 30  # bytes of a zip's header before a member's name; its last four are lengths


class Shard(NamedTuple):
  """The images of one file.

  Attributes:
    path: of the file.
    names: of its images, with '/' between folders.
    labels: of each, a number or a name; None where it has none.
    read: place -> bytes of the image, empty where they are damaged.
    class_names: what the file says that the numbers mean; () where it does not.
    held: bytes of memory that its images take once one is read; 0 where each is read by itself.
    beside: names of images that are left out, since they belong to an example that has its image.
  """

  path: str
  names: Sequence[str]
  labels: Sequence[int | str | None]
  read: Callable[[int], bytes]
  class_names: tuple[str, ...] = ()
  held: int = 0
  beside: tuple[str, ...] = ()


class _Span(NamedTuple):
  """Where a member lies: of a zip from its header on, `deflated` or as it is."""

  name: str
  start: int
  size: int
  header: bool = False
  deflated: bool = False


def from_archive(path: str) -> Shard:
  """The images of a zip or a tar.

  Raises:
    ValueError: it is damaged, encrypted, or compressed in a way in which images cannot be found.
  """
  try:
    spans = list(_zip_members(path) if path.lower().endswith('.zip') else _tar_members(path))
  except _DAMAGED as error:
    raise ValueError(f'{path} cannot be read as an archive: {error}.') from error
  images = [span for span in spans if _is_image(span.name)]
  beside = set() if path.lower().endswith('.zip') else _beside([span.name for span in spans])
  images = [span for span in images if span.name not in beside]
  told = {
    os.path.splitext(span.name)[0]: span
    for suffix in LABEL_SUFFIXES
    for span in spans
    if span.name.endswith(suffix)
  }
  own = [told.get(os.path.splitext(span.name)[0]) for span in images]
  labels = [None if span is None else _label(path, span) for span in own]
  names = [span.name for span in images]
  return Shard(
    path, names, labels, lambda place: _bytes(path, images[place]), beside=tuple(sorted(beside))
  )


def _beside(names: Sequence[str]) -> set[str]:
  """The images of WebDataset's examples other than the one that an example is of.

  A tar is WebDataset's where most images share their name, up to the first dot, with a file that is
  no image, or where all have the same others beside them. In other tars dots mean nothing:
  `cat.jpg` and `cat.2.jpg` are two images.
  """
  samples: dict[str, dict[str, str]] = {}
  for name in names:
    folder, file = os.path.split(name)
    key, _, suffix = file.partition('.')
    samples.setdefault(f'{folder}/{key}', {})[suffix.lower()] = name
  chosen = [
    (main, files)
    for files in samples.values()
    if (main := next((suffix for suffix in _MAIN if suffix in files), None)) is not None
  ]
  companions = sum(not all(map(_is_image, files.values())) for _, files in chosen)
  alike = len(chosen) > 1 and len({frozenset(files) for _, files in chosen}) == 1
  if 2 * companions <= len(chosen) and not alike:
    return set()
  others = (name for main, files in chosen for end, name in files.items() if end != main)
  return {name for name in others if _is_image(name)}


def _is_image(name: str) -> bool:
  parts = name.split('/')
  hidden = any(part.startswith(('.', '__MACOSX')) for part in parts)
  return not hidden and name.lower().endswith(SUFFIXES)


def _tar_members(path: str) -> Iterator[_Span]:
  with tarfile.open(path, 'r:') as opened:
    for member in opened:
      if member.isreg():
        name = member.name.removeprefix('./')
        yield _Span(name, member.offset_data, member.size)


def _zip_members(path: str) -> Iterator[_Span]:
  with zipfile.ZipFile(path) as opened:
    for member in opened.infolist():
      if member.is_dir():
        continue
      if member.flag_bits & 1:
        raise ValueError(f'{path} is encrypted: unpack it, and name the folder.')
      if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(
          f"{path}: '{member.filename}' is compressed in a way other than zip's usual one: unpack "
          'it, and name the folder.'
        )
      deflated = member.compress_type == zipfile.ZIP_DEFLATED
      yield _Span(member.filename, member.header_offset, member.compress_size, True, deflated)


def _bytes(path: str, span: _Span) -> bytes:
  """A member's bytes; empty where they are damaged, which counts as an unreadable image."""
  try:
    with open(path, 'rb') as file:
      file.seek(span.start)
      if span.header:
        # The lengths of name and extra field differ from those in the list at the end.
        lengths = file.read(_LOCAL_HEADER)[-4:]
        file.seek(int.from_bytes(lengths[:2], 'little') + int.from_bytes(lengths[2:], 'little'), 1)
      found = file.read(span.size)
    return zlib.decompress(found, -zlib.MAX_WBITS) if span.deflated else found
  except (OSError, zlib.error):
    return b''


def _label(path: str, span: _Span) -> int | str | None:
  where, text = f'{path}/{span.name}', _bytes(path, span).decode('utf-8', 'replace').strip()
  if span.name.endswith('.json'):
    try:
      about = json.loads(text)
    except ValueError:
      return None
    known = about if isinstance(about, dict) else {}
    found = next((known[name] for name in LABEL_NAMES if known.get(name) is not None), None)
    single = isinstance(found, int | str) and not isinstance(found, bool)
    return read_label(found, where) if single else None
  return None if text == _NONE else read_label(text, where)
