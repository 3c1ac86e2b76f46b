"""The data sets by name: what is known about each before it is opened, in one table."""

import dataclasses

from byoljax import own
from byoljax.data.sources import given, hub_data, layouts, shapes, sprites
from byoljax.suggest import did_you_mean

TFDS_PREFIX = 'tfds:'
# Sets by kind that lie where `data_dir` says and nowhere else: what that is the path of.
LOCAL = {
  'folder': 'the folder of images',
  'frames': 'the folder of images',
  'npz': 'the .npz file',
  'list': 'the CSV or JSON list',
  'shards': 'a zip, tar, Parquet or Arrow file, or a folder of these',
  'voc_labels': 'the folder with JPEGImages and ImageSets',
  'voc_boxes': 'the folder of images',
  'coco_boxes': 'the folder of images',
  'layout': 'its folder',
}


@dataclasses.dataclass(frozen=True)
class Facts:
  """What is known about a data set before it is opened.

  Attributes:
    kind: 'tfds', 'shapes', 'sprites', 'folder', 'frames', 'npz', 'list', 'shards', 'voc_labels',
      'voc_boxes', 'coco_boxes', 'layout', 'hub', 'given' or 'own': what reads it.
    tfds: name in TFDS, for kind 'tfds'.
    pretrain, train, test: the splits in TFDS's notation, for kind 'tfds'.
    image_size: side in pixels at which the set is usually trained; 0 where it is up to the data.
    metric: the one that the literature reports, a name of `evals.scores`.
    mask: the field with the class of every pixel, '' where there is none.
    mask_classes: names of these classes in their order; () where they are not known.
    depth: the field with the depth of every pixel, '' where there is none.
  """

  kind: str
  tfds: str = ''
  pretrain: str = 'train'
  train: str = 'train'
  test: str = 'test'
  image_size: int = 0
  metric: str = 'top1'
  mask: str = ''
  mask_classes: tuple[str, ...] = ()
  depth: str = ''


DATASETS = {
  'shapes': Facts('shapes', image_size=shapes.SIZE),
  'sprites': Facts('sprites', image_size=sprites.SIZE, mask='category', depth='depth',
                   mask_classes=('background', *sprites.CLASS_NAMES)),
  'cifar10': Facts('tfds', 'cifar10', image_size=32),
  'cifar100': Facts('tfds', 'cifar100', image_size=32),
  'stl10': Facts('tfds', 'stl10', pretrain='unlabelled+train', image_size=96),
  'imagenette': Facts('tfds', 'imagenette/160px-v2', test='validation', image_size=128),
  'imagenet2012': Facts('tfds', 'imagenet2012', test='validation', image_size=224),
  'folder': Facts('folder', mask='masks', depth='depth'),
  'frames': Facts('frames'),
  'npz': Facts('npz', mask='mask', depth='depth'),
  'list': Facts('list'),
  'shards': Facts('shards'),
  'voc_boxes': Facts('voc_boxes'),
  'coco_boxes': Facts('coco_boxes'),
  'voc_segmentation': Facts('layout', mask='mask', mask_classes=layouts.VOC_CLASSES),
  'cityscapes': Facts('layout', mask='mask', mask_classes=layouts.CITYSCAPES_CLASSES),
  'voc_labels': Facts('voc_labels', metric='map11'),
  # Transfer, as by Kornblith et al. (arXiv 1805.08974, appendix A.1): what is trained on is
  # training and validation images together.
  'food101': Facts('tfds', 'food101', test='validation'),
  'flowers102': Facts('tfds', 'oxford_flowers102', train='train+validation',
                      metric='mean_per_class'),
  'pets': Facts('tfds', 'oxford_iiit_pet', metric='mean_per_class', mask='segmentation_mask',
                mask_classes=('none', 'pet', 'background', 'border')),
  'dtd': Facts('tfds', 'dtd', train='train+validation'),
  'cars': Facts('tfds', 'cars196'),
  'sun397': Facts('tfds', 'sun397/tfds', train='train+validation'),
  'caltech101': Facts('tfds', 'caltech101', metric='mean_per_class'),
  'voc2007': Facts('tfds', 'voc/2007', train='train+validation', metric='map11'),
}  # fmt: skip


def facts(name: str) -> Facts:
  """What is known about the set `name`: in DATASETS, of TFDS, of the hub, or one's own.

  Raises:
    ValueError: an unknown name.
  """
  if name.startswith(TFDS_PREFIX) and len(name) > len(TFDS_PREFIX):
    # Empty splits are looked up when the set is opened.
    return Facts(
      'tfds',
      name[len(TFDS_PREFIX) :],
      pretrain='',
      train='',
      test='',
      mask='segmentation_mask',
      depth='depth',
    )
  if name.startswith(hub_data.PREFIX):
    return Facts('hub')
  if own.is_path(name):
    return Facts('given' if name.startswith(given.PREFIX) else 'own')
  if name not in DATASETS:
    raise ValueError(
      f'unknown data set {name!r}: there are {", ".join(DATASETS)}, {TFDS_PREFIX}NAME for any '
      f"other image set of TFDS, and {hub_data.PREFIX}owner/name for one of Hugging Face's hub"
      f'{did_you_mean(name, DATASETS)}'
    )
  return DATASETS[name]
