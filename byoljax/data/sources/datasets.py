"""The data sets by name: which files and splits stand behind `pretrain`, `train` and `test`.

    source = datasets.load('cifar10', 'train', data_dir='~/tensorflow_datasets')
    source = datasets.load('folder', 'pretrain', data_dir='~/photographs')
    source = datasets.load('npz', 'test', data_dir='cifar10.npz')
    source = datasets.load('tfds:oxford_flowers102', 'train')

`pretrain` is what a self-supervised method may look at: every training image, labelled or not.
`train` and `test` are for the evaluations: of images of which some have a label, those. Sets whose
test labels are not public (ImageNet, Imagenette) are tested on their validation split, as the
literature does.
"""

from collections.abc import Sequence
import dataclasses
import os

from byoljax import own
from byoljax.data.fields import Field
from byoljax.data.sources import (
  arrays,
  coco_boxes,
  folder,
  frames,
  given,
  hub_data,
  image_file,
  joined,
  layouts,
  listed,
  memory,
  objects,
  packed_files,
  shapes,
  shards,
  source,
  sprites,
  tfds_files,
  tfds_source,
  voc_boxes,
  voc_labels,
)
from byoljax.data.sources.catalog import LOCAL, Facts, facts
from byoljax.suggest import check_name

# Of these a reader needs to know nothing else.
_READERS = {
  'list': listed.from_list,
  'shards': shards.from_shards,
  'voc_labels': voc_labels.from_voc,
  'voc_boxes': voc_boxes.from_voc,
  'coco_boxes': coco_boxes.from_coco,
}
# Kinds whose further fields are always the same.
_FIELDS = {
  **dict.fromkeys(('list', 'shards', 'hub', 'voc_labels', 'shapes'), ()),
  **dict.fromkeys(('voc_boxes', 'coco_boxes'), ('boxes', 'kinds', 'areas')),
}


def load(
  name: str,
  split: str,
  *,
  data_dir: str | os.PathLike = '',
  unreadable_log: str | os.PathLike | None = None,
  label_key: str = 'label',
  in_memory: bool = False,
  fields: Sequence[Field] = (),
  frame_gap: int = 1,
  range_: str = '',
) -> source.Source:
  """Opens a split of a data set; of 'train' and 'test' the images that have a label, if any has.

  Args:
    name: a key of DATASETS; `tfds:NAME`, or `tfds:NAME#FEATURE` where the images or clips are not
      its feature 'image'; `hf:owner/name`, see `hub_data`; 'given:...', see `given`;
      or the import path of a function (`byoljax.own`): split -> images, see `objects.as_source`, or
      None where there are none.
    split: 'pretrain', 'train' or 'test'.
    data_dir: the directory with prepared TFDS sets (empty: $TFDS_DATA_DIR, else
      ~/tensorflow_datasets; of a built-in set or one of the hub its cache), the folder of images,
      or the `.npz` file.
    unreadable_log: directory in which `unreadable.txt` lists the images that cannot be read, or
      the path of such a .txt file; None keeps no file.
    label_key: TFDS feature that holds the class.
    in_memory: decode small TFDS sets whose images all have one size once, when the first batch is
      asked for, and keep them: see `memory.keep`. For whoever reads a set more than once.
    fields: further fields of every example, such as `Field('depth', 'map')`: folders, members or
      features of these names. `shapes` has none, `sprites` those of `sprites.FIELDS`, `frames`
      besides 'second', what is given those of its `Source`.
    frame_gap: of `frames` and of TFDS's clips: places from a frame to the field 'second'.
    range_: of files and arrays: which numbers are black and white, see `pixels`.

  Raises:
    ValueError: an unknown name or split, data that are not there, or that are damaged.
  """
  check_name('split', split, source.SPLITS)
  known = facts(name)
  found = _open(
    known,
    name,
    split,
    os.fspath(data_dir),
    source.UnreadableLog(unreadable_log),
    label_key,
    fields,
    frame_gap,
    range_,
  )
  if known.kind == 'tfds':  # All of a split have labels, or none: reading them would take long.
    return memory.keep(found) if in_memory else found
  return found if split == 'pretrain' else found.labelled()


def _open(
  known: Facts,
  name: str,
  split: str,
  directory: str,
  log: source.UnreadableLog,
  label_key: str,
  fields: Sequence[Field],
  frame_gap: int,
  range_: str,
) -> source.Source:
  """A split as its reader gives it."""
  for field in fields:
    own_fields = _FIELDS.get(known.kind)
    if own_fields is not None and field.name not in own_fields:
      only = 'boxes, kinds and areas' if own_fields else 'images and labels'
      raise ValueError(f'{name} has no field {field.name!r}, only {only}.')
  if known.kind in LOCAL and not directory:
    raise ValueError(f'data set {name!r} needs config.data.dir: the path of {LOCAL[known.kind]}.')
  if known.kind in ('folder', 'npz'):
    _require_kind(known.kind, directory)
  if known.kind in ('shapes', 'sprites'):
    _require_cache(name, directory)
  if known.kind in _READERS:
    return _READERS[known.kind](directory, split, unreadable=log, range_=range_)
  match known.kind:
    case 'given':
      return _with_fields(given.find(name, split, range_), fields)
    case 'own':
      return _with_fields(_own(name, split, range_), fields)
    case 'folder':
      return folder.from_folder(directory, split, unreadable=log, fields=fields, range_=range_)
    case 'frames':
      return frames.from_frames(
        directory, split, gap=frame_gap, unreadable=log, fields=fields, range_=range_
      )
    case 'hub':
      place = hub_data.folder_of(name, directory)
      found = shards.from_shards(place, split, unreadable=log, range_=range_)
      return dataclasses.replace(found, name=name)
    case 'layout':
      return layouts.from_layout(
        name, directory, split, fields=fields, unreadable=log, range_=range_
      )
    case 'npz':
      return arrays.from_npz(directory, split, fields, range_)
    case 'shapes':
      return _shapes(split, directory)
    case 'sprites':
      return _sprites(split, directory, fields)
  wanted = {'pretrain': known.pretrain, 'train': known.train, 'test': known.test}[split]
  prepared, _, feature = known.tfds.partition('#')
  return tfds_source.from_tfds(
    prepared,
    wanted or _usual_split(prepared, split, directory),
    data_dir=directory,
    image_key=feature or 'image',
    label_key=label_key,
    unreadable=log,
    fields=fields,
    frame_gap=frame_gap,
  )


def kind_of(path: str | os.PathLike[str]) -> str:
  """The name of the data set that a path is: 'folder', 'shards', 'npz', 'list', or ''.

  A folder is looked into; of files the suffix counts, whether they are there or not.
  """
  if os.path.isdir(path):
    return 'shards' if packed_files.is_one(path) else 'folder'
  suffix = os.path.splitext(path)[1]
  if suffix == '.npz':
    return 'npz'
  if suffix in listed.SUFFIXES:
    return 'list'
  return 'shards' if suffix in packed_files.SUFFIXES else ''


def _require_kind(kind: str, directory: str) -> None:
  """Raises ValueError for a file in place of a folder, or the other way around."""
  path = os.path.expanduser(directory)
  if not os.path.exists(path) or os.path.isdir(path) == (kind == 'folder'):
    return
  found = kind_of(path)
  if found not in ('', kind):
    what = 'a folder' if kind == 'folder' else 'an .npz file'
    raise ValueError(f"'{directory}' is not {what} of images: add --data.name={found}.")


def with_unlabelled(found: source.Source, path: str | os.PathLike) -> source.Source:
  """The images of a folder or an `.npz`, whose labels are not looked at, and after them `found`.

  Args:
    found: images to pretrain on.
    path: a folder of images in any layout, or an `.npz` with `x_unlabelled` or `x_train`.

  Raises:
    ValueError: there is no such data, or it cannot be joined: arrays of another size, or beside
      files.
  """
  file = source.absolute(path)
  if file.endswith('.npz'):
    others = arrays.from_npz(file, 'pretrain', range_=found.field('image').range).without_labels()
  elif os.path.isdir(file):
    files = [os.path.join(file, name) for name in folder.every_image(file)]
    others = listed.from_files(files, name=os.path.basename(file), unreadable=found.unreadable)
    # As numbers or as bytes, as the others are.
    others = dataclasses.replace(others, fields=(found.field('image'),))
  else:
    raise ValueError(f"data.unlabelled='{path}' is neither a folder of images nor an .npz file.")
  return joined.join([others, found])


def _own(name: str, split: str, range_: str) -> source.Source:
  """A split of the user's own."""
  images = own.find('data set', name)(split)
  if images is None:
    raise source.NoSplitError(f'{name} has no {split} split.')
  return objects.as_source(images, name=f'{name.rpartition(":")[2]}:{split}', range_=range_)


def _require_cache(name: str, directory: str) -> None:
  """Raises ValueError where the cache of a built-in set would lie among images: those are meant."""
  place = os.path.expanduser(directory)
  names = (name for _, _, names in os.walk(place) for name in names) if directory else ()
  if os.path.isfile(place) or any(name.lower().endswith(image_file.SUFFIXES) for name in names):
    kind = 'npz' if place.endswith('.npz') else 'folder'
    raise ValueError(
      f"data.dir='{directory}' holds images, but data.name={name} is a built-in set, which would "
      f'be kept there: add --data.name={kind}.'
    )


def _shapes(split: str, directory: str) -> source.Source:
  """The built-in set as arrays, without TensorFlow; `shapes.prepare` writes it for TFDS.

  The fingerprint is that of the TFDS files, which hold the same examples in the same order.
  """
  part = 'test' if split == 'test' else 'train'
  images, labels = shapes.arrays(part, directory or None)
  name = f'shapes/{shapes.VERSION}:{part}'
  mark = tfds_source.fingerprint(name, len(images), 'image', 'label')
  return arrays.from_arrays(images, labels, name=name, class_names=shapes.CLASS_NAMES, mark=mark)


def _sprites(split: str, directory: str, fields: Sequence[Field]) -> source.Source:
  """The built-in scenes as arrays."""
  part = 'test' if split == 'test' else 'train'
  names = [field.name for field in fields]
  found = []
  for asked in fields:
    field = sprites.field_of(asked.name)
    _check_asked(field, asked, 'sprites')
    found.append(dataclasses.replace(field, resample=asked.resample))
  kept = sprites.arrays(part, ('image', 'label', *names), directory or None)
  name = f'sprites/{sprites.VERSION}:{part}'
  return arrays.from_arrays(
    kept['image'],
    kept['label'],
    name=name,
    class_names=sprites.CLASS_NAMES,
    fields={field: kept[field.name] for field in found},
    mark=source.fingerprint(name, len(kept['label']), *names),
  )


def _with_fields(found: source.Source, fields: Sequence[Field]) -> source.Source:
  """A source that was given as one, whose fields are what they are asked for as."""
  for asked in fields:
    _check_asked(found.field(asked.name), asked, found.name)
  return found


def _check_asked(own: Field, asked: Field, where: str) -> None:
  """Raises ValueError for a field that is asked for as another kind than it is."""
  if asked.kind != own.kind or asked.channels not in (0, own.channels):
    raise ValueError(
      f'the field {own.name!r} of {where} is a {own.kind} of {own.channels} channels or rows, not '
      f'{asked.kind} of {asked.channels}.'
    )


def _usual_split(name: str, split: str, directory: str) -> str:
  """The split of a set that is not in the table: by the names that TFDS sets use."""
  names = tfds_files.split_names(name, data_dir=directory)
  unlabelled = [part for part in ('unlabelled', 'unlabeled') if part in names]
  choices = {
    'pretrain': ['+'.join([*unlabelled, 'train'])] if 'train' in names else unlabelled,
    'train': [part for part in ('train',) if part in names],
    'test': [part for part in ('test', 'validation') if part in names],
  }[split]
  if not choices:
    raise source.NoSplitError(
      f'{name} has no {split} split: it has {", ".join(names)}, and train, test or validation are '
      'looked for.'
    )
  return choices[0]
