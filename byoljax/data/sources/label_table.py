"""Labels of some of the images of a folder, in a table.

    photos/a.jpg, photos/deep/b.png, ...          file,class
                                                  a.jpg,cat
                                                  deep/b.png,dog

A table is CSV with the columns of a list, see `data.sources.listed`; without a line that names them
the first column is the file and the second the class. Files are named by their path within the
folder, by an absolute path, or by their name alone where that is unique. An empty class is none,
and so is -1.
"""

from collections.abc import Mapping, Sequence
import csv
import os
import pathlib

from byoljax.data.sources import listed, source
from byoljax.data.sources.listed import LABELS, PATHS

_NONE = ('', '-1')


def read_labels(path: str | os.PathLike[str]) -> dict[str, str]:
  """{file: class} of a table, in its order; rows without a class are left out.

  Raises:
    ValueError: it cannot be read, has no such columns, or gives a file two classes.
  """
  try:
    rows = listed.csv_rows(pathlib.Path(os.path.expanduser(path)).read_text(encoding='utf-8-sig'))
  except (OSError, UnicodeDecodeError, csv.Error) as error:
    raise ValueError(f"'{path}' cannot be read as a table of labels: {error}.") from error
  if not rows or len(rows[0]) < 2:
    raise ValueError(
      f"'{path}' is no table of labels: it needs two columns, a file and its class, as in "
      "'holiday.jpg,beach'."
    )
  head = [cell.strip().lower() for cell in rows[0]]
  files, labels = ([i for i, cell in enumerate(head) if cell in names] for names in (PATHS, LABELS))
  if files and not labels:
    raise ValueError(
      f"'{path}' has no column {', '.join(LABELS)} with the classes: it has {', '.join(head)}."
    )
  named = bool(files and labels)
  file, label = (files[0], labels[0]) if named else (0, 1)
  found: dict[str, str] = {}
  for number, row in enumerate(rows[1:] if named else rows, start=1 + named):
    if len(row) <= max(file, label):
      raise ValueError(f"'{path}', row {number}: {','.join(row)!r} has no class.")
    name, own = row[file].strip(), row[label].strip()
    if found.get(name, own) != own:
      raise ValueError(f"'{path}' gives '{name}' two classes, '{found[name]}' and '{own}'.")
    if own not in _NONE:
      found[name] = own
  return found


def matched(
  root: str | os.PathLike[str], files: Sequence[str], labels: Mapping[str, str], where: str
) -> dict[str, str]:
  """{path within the folder: class} of the files that a table names.

  Args:
    root: the folder.
    files: paths of its images.
    labels: of `read_labels`.
    where: the table, for messages.

  Raises:
    ValueError: a name that no file has, or several; a file with two classes.
  """
  home = source.absolute(root)
  alone: dict[str, list[str]] = {}
  for file in files:
    alone.setdefault(file.rsplit('/', 1)[-1], []).append(file)
  there, made, missing = set(files), dict[str, str](), []
  for name, label in labels.items():
    path = name.replace('\\', '/')
    path = os.path.relpath(path, home) if os.path.isabs(path) else os.path.normpath(path)
    if path not in there:
      # Perhaps the folder's own name is in front, or the folders have been left out.
      own = path.partition('/')[2] if path.partition('/')[0] == os.path.basename(home) else ''
      by_name = alone.get(path, [])
      if len(by_name) > 1:
        raise ValueError(
          f"{where}: '{name}' is the name of {len(by_name)} images, such as '{by_name[0]}' and "
          f"'{by_name[1]}': give the path within the folder."
        )
      path = own if own in there else by_name[0] if by_name else ''
    if not path:
      missing.append(name)
    elif made.get(path, label) != label:
      raise ValueError(f"{where} gives '{path}' two classes, '{made[path]}' and '{label}'.")
    else:
      made[path] = label
  if missing:
    like = [file for file in files if _stem(file) == _stem(missing[0])]
    raise ValueError(
      f"{where}: {len(missing)} of {len(labels)} files are no images in '{root}', such as "
      f"'{missing[0]}'" + (f"; did you mean '{like[0]}'?" if like else '.')
    )
  return made


def _stem(name: str) -> str:
  """A file's name without capital letters, folders and suffix: what tables mistake most."""
  return pathlib.PurePosixPath(name.replace('\\', '/')).stem.lower()
