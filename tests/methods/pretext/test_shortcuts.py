"""Images whose only cue is a trace of the place: readable without the defense, gone with it.

The images are noise (experiments/shortcuts/sets.py); who reads them here knows the traces and fits
a linear classifier. The slow test trains networks that know nothing.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from byoljax.method import transformed
from experiments.shortcuts import reader, sets, train
from tests.methods.test_contract import make

CHANCE, IMAGES = 1 / 8, 200
PLAIN = {'grid': 3, 'tile': 12, 'gap': 6, 'jitter': 2, 'standardize': 'none'}
# 800 pairs of 100 images that share tiles, as if a half were independent: five deviations.
NEAR_CHANCE = CHANCE + 5 * np.sqrt(CHANCE * (1 - CHANCE) / 400)


def accuracy(cue, **changes):
  """Of the reader on images that it was not fitted to."""
  batch = {'views': (images(cue),), 'index': np.arange(IMAGES, dtype=np.int32)}
  made = jax.tree.map(np.asarray, transform_of(tuple(changes.items()))(batch))
  tiles = made['views'][0].reshape(9, IMAGES, *made['views'][0].shape[1:])
  features = reader.pair_features(tiles, made['order'].reshape(8, IMAGES, 2))
  return reader.held_out_accuracy(features, made['pretext_label'], IMAGES)


@functools.cache
def images(cue):
  return sets.images(cue, IMAGES, seed=0)


@functools.cache
def transform_of(changes):
  tiles = PLAIN | dict(changes)
  method = make('relative_patch_location', axis=None, tiles=tiles, hidden=(), dropout=0.0)
  return jax.jit(lambda batch: transformed(method, batch, jax.random.key(0), jnp.int32(0)))


DEFENDED = {'gray_prob': 1.0, 'standardize': 'tile'}


@pytest.mark.parametrize(
  ('cue', 'off', 'on', 'least'),
  [
    ('aberration', {}, DEFENDED, 0.8),
    pytest.param('brightness', {}, DEFENDED, 0.6, marks=pytest.mark.slow),
    # Tiles that touch, and tiles with a gap.
    pytest.param('continuity', {'gap': 0, 'jitter': 0}, {}, 0.35, marks=pytest.mark.slow),
  ],
)
def test_the_trace_is_read_without_the_defense_and_not_with_it(cue, off, on, least):
  assert accuracy(cue, **off) > least
  assert accuracy(cue, **on) < NEAR_CHANCE


@pytest.mark.slow
@pytest.mark.parametrize(
  'defense', [{'gray_prob': 1.0}, {'project_prob': 1.0}, {'drop_prob': 1.0}, {'channel_shift': 2}]
)
def test_every_defense_against_aberration(defense):
  # Shifts of 2 pixels hide those of 1.6 from whoever sees a few tiles, not altogether.
  most = 0.3 if 'channel_shift' in defense else NEAR_CHANCE
  assert accuracy('aberration', **defense) < most


@pytest.mark.slow
@pytest.mark.parametrize('cue', ['aberration', 'brightness'])
def test_a_network_learns_the_trace_and_nothing_else(cue):
  """2048 pairs of 256 images: six deviations of a binomial of a third of them."""
  off, *_, on = train.TRIED[cue].values()
  assert train.held_out_accuracy(cue, off) > 0.6
  assert train.held_out_accuracy(cue, on) < CHANCE + 6 * np.sqrt(CHANCE * (1 - CHANCE) / 680)
