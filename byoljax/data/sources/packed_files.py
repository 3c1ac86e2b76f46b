"""The packed files of a folder: which there are, which belong together, and what their names say.

A folder that `datasets` has written, by `save_to_disk` or in its cache, says in `state.json` which
Arrow files it consists of; others beside them, `cache-...`, are left over from its computations.
A repository of Hugging Face's hub has several data sets in it where its README.md names several
configurations. Files are numbered, `train-00000-of-00005.parquet`: where some are not there, a note
says so.
"""

from collections.abc import Iterator, Sequence
import json
import os
import re

from byoljax.data.sources import image_file, source, table_file
from byoljax.data.sources.split_folders import TEST, TRAIN

SUFFIXES = ('.zip', '.tar', table_file.PARQUET, table_file.ARROW)
STATE = 'state.json'
_COMPRESSED = ('.tar.gz', '.tgz', '.tar.bz2', '.tar.xz', '.tar.zst')
_LEFT_OVER = 'cache-'
_LISTED = ', '.join(SUFFIXES)


def is_one(folder: str | os.PathLike) -> bool:
  """Whether packed files lie in a folder, at any depth, and no image by itself."""
  found = False
  for name in (name for _, _, names in os.walk(folder) for name in names):
    if name.lower().endswith(image_file.SUFFIXES):
      return False
    found = found or name.lower().endswith(SUFFIXES)
  return found


def holds(folder: str) -> bool:
  """Whether packed files lie in a folder, at any depth."""
  return any(name.lower().endswith(SUFFIXES) for _, _, names in os.walk(folder) for name in names)


def files(root: str) -> list[str]:
  """The packed files of a folder, or the one that `root` is, in the order of their paths.

  Raises:
    ValueError: there is none, one cannot be read where it lies, or there are several data sets.
  """
  if not os.path.exists(root):
    raise ValueError(f'{root} does not exist: config.data.dir must be a file or a folder of files.')
  found = [root] if os.path.isfile(root) else sorted(_below(root))
  for file in found:
    if file.lower().endswith(_COMPRESSED):
      raise ValueError(
        f'{file} is compressed as a whole, so that no image can be read by itself: unpack it, and '
        'name the folder, or the tar within.'
      )
  if not found or not found[0].lower().endswith(SUFFIXES):
    raise ValueError(f'{root} is no packed file, and holds none: these end in {_LISTED}.')
  several = configurations(root)
  if len(several) > 1:
    raise ValueError(
      f'{root} holds several data sets, as its README.md says: {", ".join(several)}. Name the '
      'folder of one, or copy the files of one into a folder of their own.'
    )
  return found


def _below(root: str) -> Iterator[str]:
  for folder, folders, names in os.walk(root):
    folders[:] = [name for name in folders if not name.startswith('.')]
    wanted = [name for name in names if name.lower().endswith((*SUFFIXES, *_COMPRESSED))]
    tables = [name for name in wanted if name.lower().endswith(table_file.ARROW)]
    if tables and STATE in names:
      own = _stated(folder, names)
    else:
      own = [name for name in tables if not name.startswith(_LEFT_OVER)]
    wanted = [name for name in wanted if name not in tables or name in own]
    yield from (os.path.join(folder, name) for name in wanted if not name.startswith('.'))


def _stated(folder: str, there: Sequence[str]) -> list[str]:
  """The Arrow files that a `state.json` names."""
  path = os.path.join(folder, STATE)
  try:
    about = json.loads(source.bytes_of(path))
    names = [str(each['filename']) for each in about['_data_files']]
  except (KeyError, TypeError, ValueError) as error:
    raise ValueError(f'{path} is not as `datasets` writes it.') from error
  if about.get('_indices_data_files'):
    raise ValueError(
      f'{path} selects rows of its table by a list: write it anew with flatten_indices() and '
      'save_to_disk().'
    )
  missing = [name for name in names if name not in there]
  if missing:
    raise ValueError(f'{folder} is not complete: {missing[0]}, which {STATE} names, is not there.')
  return names


def configurations(root: str) -> list[str]:
  """The names of the data sets of a hub's repository, as far as a README.md says them."""
  text = source.bytes_of(os.path.join(root, 'README.md')).decode('utf-8', 'replace')
  about = re.match(r'---\s*\n(.*?)\n---', text, re.DOTALL)
  named = re.findall(r'^[\s-]*config_name:\s*(.+?)\s*$', about[1] if about else '', re.MULTILINE)
  return sorted({name.strip('\'"') for name in named})


def split_of(root: str, file: str) -> str:
  """'train', a word of `TEST`, or '' where neither a file's name nor its folders say a split."""
  parts = os.path.relpath(file, root).split(os.sep) if file != root else [os.path.basename(file)]
  for part in reversed(parts):
    for word in re.split('[^a-z]+', part.lower()):
      if word in (*TRAIN, *TEST):
        return 'train' if word in TRAIN else word
  return ''


def notes(found: Sequence[str], splits: Sequence[str]) -> tuple[str, ...]:
  """What a user should know of these files, a sentence each.

  Args:
    found: paths of the files.
    splits: of each, '' where it says none.
  """
  said = []
  sets: dict[tuple[str, int], int] = {}
  for file in found:
    numbered = re.match(r'(.*)-\d+-of-(\d+)\b', file)
    if numbered:
      key = (numbered[1], int(numbered[2]))
      sets[key] = sets.get(key, 0) + 1
  for (stem, count), there in sets.items():
    if there < count:
      said.append(f'{there} of the {count} files of {stem} are there; the others are not read.')
  silent = [file for file, split in zip(found, splits, strict=True) if not split]
  if silent and any(splits):
    said.append(
      f'{len(silent)} of {len(found)} packed files, such as {silent[0]}, say no split: they are '
      'training images.'
    )
  partial = next((file for file in found if f'{os.sep}partial-' in file), '')
  if partial:
    said.append(f'the hub has converted only a part of this data set: {os.path.dirname(partial)}.')
  return tuple(said)
