"""Which folders of a folder of images are splits, and which hold images without labels."""

from collections.abc import Sequence
import os
import re

from byoljax.data.sources import walk
from byoljax.data.sources.image_file import SUFFIXES

TRAIN = ('train', 'training')
TEST = ('test', 'val', 'valid', 'validation')
UNLABELLED = ('unlabelled', 'unlabeled')


def unwrapped(root: str) -> str:
  """The folder with the splits: one within, where nothing lies beside it and splits lie in it."""
  inner = root
  while not _has_splits(inner):
    folders, images = _listed(inner)
    if images or len(folders) != 1 or folders[0].lower() in (*TRAIN, *TEST, *UNLABELLED):
      return root
    inner = os.path.join(inner, folders[0])
  return inner


def _listed(path: str) -> tuple[list[str], bool]:
  """Names of the folders in a folder, and whether images lie in it: no deeper, there are many."""
  with os.scandir(path) as entries:
    here = [entry for entry in entries if not entry.name.startswith(('.', '__MACOSX'))]
  folders = [entry.name for entry in here if walk.is_folder(entry)]
  images = any(e.name.lower().endswith(SUFFIXES) and e.name not in folders for e in here)
  return folders, images


def _has_splits(root: str) -> bool:
  """Whether splits lie in a folder, or in more than one of the classes there."""
  if splits_of(root)[0] != root:
    return True
  found = 0
  for name in _listed(root)[0]:
    inside = {inner.lower() for inner in _listed(os.path.join(root, name))[0]}
    found += bool(inside & set(TRAIN)) and bool(inside & set(TEST))
  return found > 1


def splits_of(root: str) -> tuple[str, list[str]]:
  """The folder with the training images, and the folders that may hold test images."""
  there = {}
  for name in sorted(os.listdir(root)):  # `Train` sorts before `train`, which is taken of both.
    if os.path.isdir(os.path.join(root, name)):
      there[name.lower()] = name
  tests = [os.path.join(root, there[name]) for name in TEST if name in there]
  for name in [there[name] for name in TRAIN if name in there]:
    own = tuple(f'{there[folder]}/' for folder in (name.lower(), *UNLABELLED) if folder in there)
    if tests or all(file.startswith(own) for file in walk.walk(root).files):
      return os.path.join(root, name), tests
  return root, []


def unlabelled_of(root: str, train: str) -> list[str]:
  """The folders with images without labels; none where the set consists of nothing else."""
  named = [
    os.path.join(place, name)
    for place in dict.fromkeys((root, train))
    for name in sorted(os.listdir(place))
    if name.lower() in UNLABELLED and os.path.isdir(os.path.join(place, name))
  ]
  found = [path for path in named if walk.walk(path).files]
  prefixes = tuple(f'{os.path.relpath(path, train)}/' for path in found)
  alone = found and all(file.startswith(prefixes) for file in walk.walk(train).files)
  return [] if alone else found


def inner_splits(root: str, files: Sequence[str]) -> dict[str, list[str]] | None:
  """The files of 'train' and 'test' where every class has both (`cat/train`, `cat/val`), else None.

  Raises:
    ValueError: only some of the images lie so, or folders say splits with other words.
  """
  parts = [file.lower().split('/')[:2] if file.count('/') > 1 else ['', ''] for file in files]
  seen = {second for _, second in parts}
  tests = [name for name in TEST if name in seen]
  both = {top for top, second in parts if second in TRAIN} & {
    top for top, second in parts if second in tests
  }
  if not both:
    _check_words(root, files)
    return None
  for file, (_, second) in zip(files, parts, strict=True):
    if second not in (*TRAIN, *tests):
      name = file.split('/')[0]
      raise ValueError(
        f'{root}: some folders, such as {min(both)}, have training and test images of their own, '
        f'but {file} lies in neither. Arrange all as {name}/train and {name}/{tests[0]}, or as '
        f'train/{name} and {tests[0]}/{name}; without such folders all are training images.'
      )
  return {
    'train': [f for f, (_, second) in zip(files, parts, strict=True) if second in TRAIN],
    'test': [f for f, (_, second) in zip(files, parts, strict=True) if second == tests[0]],
  }


def _check_words(root: str, files: Sequence[str]) -> None:
  """Refuses folders that all are training or test images by their names, but not as it is known.

  Raises:
    ValueError: which folders, and what they should be called.
  """
  for depth in (0, 1):
    if any(file.count('/') <= depth for file in files):
      return
    words: dict[str, set[str]] = {}
    for name in {file.split('/')[depth] for file in files}:
      words[name] = set(re.split('[^a-z]+', name.lower()))
    train, test = (
      sorted(name for name, own in words.items() if own & set(known)) for known in (TRAIN, TEST)
    )
    if set(test) == set(words) and all(name.lower() in TEST for name in test):
      raise ValueError(
        f'{root} has nothing but test images, in {", ".join(test)}: put training images into train '
        'beside, or name that folder itself to train on its images.'
      )
    if train and test and set(train) | set(test) == set(words):
      raise ValueError(
        f'{root}: the folders {train[0]} and {test[0]} seem to be training and test images, but '
        'splits are folders that are named train and val or test, around the classes, or in each '
        'of them. Rename them so.'
      )
