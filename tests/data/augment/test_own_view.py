"""A function of the user's own as part of a view."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

import byoljax
from byoljax import own
from byoljax.config import ConfigError
from byoljax.data.augment import device
from byoljax.data.augment.views import ViewSpec

IMAGES = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), dtype=np.uint8)
PLAIN = ViewSpec(
  size=8, crop_scale=(1, 1), crop_ratio=(1, 1), flip_prob=0, jitter_prob=0, gray_prob=0, blur_prob=0
)


def noisy(image, key):
  return image + jax.random.uniform(key, ())


def narrow(image, key):
  del key
  return image[:4]


def on_the_host(image, key):
  del key
  return np.asarray(image) / 2


def of_the_image_alone(image):
  return image


@pytest.mark.parametrize('function', [on_the_host, of_the_image_alone])
def test_what_fails_is_named_in_one_sentence(function):
  mine = dataclasses.replace(PLAIN, own=own.give(function))
  with pytest.raises(
    ValueError, match=f"the view '.*:{function.__name__}' fails; it must"
  ) as caught:
    views_of((mine,), range(2))
  assert '\n' not in str(caught.value)


def batch(index):
  index = np.asarray(index, np.int32)
  return {'image': IMAGES[index], 'index': index, 'epoch': np.zeros_like(index)}


@functools.cache
def made_of(specs, seed):
  return jax.jit(device.make_augment(specs, seed=seed, mean=(0.0,), std=(1.0,)))


def views_of(specs, index, seed=0):
  made = made_of(specs, seed)
  return [np.asarray(view) for view in made(batch(index))['views']]


def test_it_sees_one_image_and_a_key_of_its_own():
  mine = dataclasses.replace(PLAIN, own=own.give(noisy))
  plain, one, two = views_of((PLAIN, mine, mine), range(6))
  np.testing.assert_allclose(plain, IMAGES / 255, atol=1e-6)
  added = [(view - plain)[view < 1].min() for view in (one, two)]
  assert added[0] != added[1] and (one >= plain).all() and one.max() <= 1, 'it is clipped'
  # The same of an example, whatever batch it is in; another of another example or seed.
  order = [4, 1, 0, 2, 3, 5]
  again = views_of((PLAIN, mine, mine), order)[1]
  np.testing.assert_array_equal(again, one[order])
  assert not np.array_equal(views_of((PLAIN, mine), range(6), seed=1)[1], one)
  shifts = (one - plain).reshape(6, -1).max(1)
  assert len(set(shifts.tolist())) == 6


@pytest.mark.parametrize(
  ('path', 'sentence'),
  [
    (f'{__name__}:narrow', r'makes float32\[4, 8, 3\] of an image float32\[8, 8, 3\]'),
    ('nowhere:f', "view 'nowhere:f' cannot be imported"),
    ('noisy', 'is no import path'),
    (f'{__name__}:IMAGES', 'is not there'),
  ],
)
def test_mistakes(path, sentence):
  with pytest.raises(ValueError, match=sentence):
    views_of((dataclasses.replace(PLAIN, own=path),), [0])


def test_it_is_given_from_python_and_recorded(monkeypatch, tmp_path):
  from byoljax.api import pretraining

  seen = []

  def train(config, invocation, hooks):
    del invocation, hooks
    seen.append(config)
    return tmp_path

  monkeypatch.setattr(pretraining.pretrain_task, 'train', train)
  monkeypatch.setattr(pretraining, 'SavedRun', lambda *_: None)
  byoljax.pretrain('byol:npz,smoke', IMAGES, views={'view2': noisy}, workdir=tmp_path)
  assert seen[0].views.view2.own == f'{__name__}:noisy' and not seen[0].views.view1.own
  assert own.find('view', seen[0].views.view2.own) is noisy
  with pytest.raises(ConfigError, match="unknown view 'view3'"):
    byoljax.pretrain('byol:npz,smoke', IMAGES, views={'view3': noisy})
