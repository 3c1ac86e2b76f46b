"""The data that a configuration names: images with and without labels."""

import numpy as np
from PIL import Image
import pytest

from byoljax.config import ConfigError
from byoljax.data.sources import arrays
from byoljax.tasks import data, partly_labelled
from configs import base, classify


def write(root, *names):
  for number, name in enumerate(names):
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((8, 8, 3), number, np.uint8)
    Image.fromarray(pixels).save(root / name)


def test_all_images_are_pretrained_on_and_the_labelled_ones_evaluated(tmp_path):
  images = tmp_path / 'images'
  write(images, 'train/a/1.png', 'train/b/2.png', 'train/3.png', 'unlabelled/4.png', 'val/a/5.png')
  write(tmp_path / 'more', 'x/6.png', 'y/7.png')
  config = base.get_config()
  config.data.update(name='folder', dir=str(images), unlabelled=str(tmp_path / 'more'))
  found = data.open_split(config, 'pretrain', None)
  assert found.labels.tolist() == [-1, -1, -1, -1, 0, 1]
  train, test = data.open_labelled(config, None)
  assert (train.labels.tolist(), test.labels.tolist()) == ([0, 1], [0])
  with pytest.raises(ConfigError, match='lies within the images'):
    data.open_split(config, 'pretrain', tmp_path / 'more/run')
  config.data.unlabelled = str(tmp_path / 'none')
  with pytest.raises(ConfigError, match=r'data\.unlabelled=.*neither a folder'):
    data.open_split(config, 'pretrain', None)


def test_classes_of_one_number_have_one_name(monkeypatch):
  """Both splits have names: another order would be other classes."""
  images, labels = np.zeros((2, 4, 4, 3), np.uint8), np.arange(2)
  names = {'train': ('cat', 'dog'), 'test': ('cat', 'dog')}
  monkeypatch.setattr(
    data,
    'open_split',
    lambda config, split, log: arrays.from_arrays(
      images, labels, name=split, class_names=names[split]
    ),
  )
  config = base.get_config()
  assert data.open_labelled(config, None)[1].class_names == ('cat', 'dog')
  for without in ((), ('0', '1')):
    names['test'] = without
    assert data.open_labelled(config, None)[1].num_classes == 2
  names['test'] = ('cat', 'cow')
  with pytest.raises(ConfigError, match=r"class 1 is 'dog' in train but 'cow' in test: name"):
    data.open_labelled(config, None)


def test_why_there_is_no_evaluation_while_training(tmp_path, voc):
  photos = tmp_path / 'photos'
  write(photos, 'train/cat/1.png', 'train/dog/2.png', 'test/3.png')
  config = base.get_config()
  config.data.update(name='folder', dir=str(photos))
  found, why_not = data.while_training(config, tmp_path / 'out')
  assert found is None and '3.png, have no labels, but the training images do: put each' in why_not
  config.data.update(name='voc_labels', dir=str(voc))
  found, why_not = data.while_training(config, tmp_path / 'out')
  assert found is None and 'VOC:trainval has several labels per image' in why_not
  (photos / 'test/dog').mkdir()
  (photos / 'test/3.png').rename(photos / 'test/dog/3.png')
  config.data.update(name='folder', dir=str(photos))
  found, why_not = data.while_training(config, tmp_path / 'out')
  assert found is not None and found.test.size == 1 and not why_not


def test_a_classifier_answers_about_images_without_a_label(tmp_path):
  write(tmp_path, 'a/1.png', 'b/2.png', 'c/0.png', '3.png', 'unlabelled/deep/4.png')
  config = classify.get_config()
  config.data.dir = str(tmp_path)
  found = partly_labelled.open_images(config, tmp_path / 'out')
  assert found.train.labels.tolist() == [0, 1, 2] and found.test is None
  names = [found.rest.locate(row) for row in range(found.rest.size)]
  assert names == [str(tmp_path / name) for name in ('unlabelled/deep/4.png', '3.png')]


def test_processes_that_find_other_images_are_refused(tmp_path, monkeypatch):
  """Also where one has no test images: it would wait for an evaluation of the others."""
  told, others = [], [[1], [], [1]]
  monkeypatch.setattr(data.hosts, 'differing', lambda text: told.append(text) or others.pop(0))
  write(tmp_path, 'train/cat/1.png', 'train/dog/2.png')
  config = base.get_config()
  config.data.update(name='folder', dir=str(tmp_path))
  for split in ('train', 'test'):
    with pytest.raises(ConfigError, match=f'other {split} images in process 1 than in process 0'):
      data.open_labelled(config, None)
  assert told == [told[0], told[0], ''] and told[0]


def test_one_mean_stands_for_all_channels(npz):
  """Encoders have as many channels as there are means, gray inputs as well."""
  config = base.get_config()
  config.data.update(name='npz', dir=str(npz), mean=(0.5,), std=(0.25,))
  data.open_split(config, 'pretrain', None)
  assert config.data.mean == (0.5,) * 3 and config.data.std == (0.25,) * 3
