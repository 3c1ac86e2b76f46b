"""Notes of methods on their data: what is allowed and rarely wanted."""

import pytest

from byoljax.length import Length
from byoljax.method import Setting
from byoljax.methods import METHODS
from tests.methods.test_contract import CASES, TinyEncoder


def notes(name, images=1000, batch=256, accumulate=1, **fields):
  setting = Setting(Length(batch, 4, 40), accumulate=accumulate, num_examples=images)
  return METHODS[name](TinyEncoder, setting, **(CASES[name][0] | fields)).notes


@pytest.mark.parametrize(
  ('name', 'field', 'consequence'),
  [
    ('moco', 'queue_size', 'is among its negatives'),
    ('interclr', 'queue_size', 'is among its negatives'),
    ('simclr', 'memory_size', 'is among its negatives'),
    ('nnclr', 'queue_size', 'is likely to be its neighbor'),
  ],
)
def test_a_queue_of_all_images_and_more(name, field, consequence):
  fields = {'num_clusters': 5, 'bn_groups': 0} if name == 'interclr' else {}
  assert notes(name, **{field: 999}, **fields) == ()
  (note,) = notes(name, **{field: 1000}, **fields)
  assert '1,000 rows and the data 1,000 images' in note and consequence in note


def test_more_prototypes_than_images():
  assert notes('swav', prototypes=256, queue_size=0) == ()
  assert notes('swav', prototypes=300, queue_size=44) == ()
  (note,) = notes('swav', prototypes=300, queue_size=0)
  assert '300 prototypes are shared out to 256 images' in note


def test_micro_batches_of_a_loss_that_compares_images():
  """Of those that the step does not compare over the whole batch."""
  own = {'swav': {'prototypes': 8}, 'exemplar': {'form': 'triplet'}}
  for name in ('triplet', 'swav', 'bridge', 'exemplar'):
    fields = own.get(name, {})
    (note,) = notes(name, accumulate=4, **fields)
    assert 'the 64 images of a micro-batch, not the 256 of a batch' in note
    assert notes(name, **fields) == ()
  assert notes('exemplar', accumulate=4) == ()  # A classifier of single images.


@pytest.mark.parametrize(
  ('name', 'field', 'never'),
  [
    ('dino', 'freeze_last', 'the last layer is never trained'),
    ('dino', 'teacher_warmup', 'does not reach teacher_temperature=0.07'),
    ('swav', 'freeze', 'the prototypes are never trained'),
    ('swav', 'queue_from', 'the queue never takes part'),
    ('interclr', 'warmup', 'the branch between images never counts'),
  ],
)
def test_durations_that_the_run_does_not_reach(name, field, never):
  """Of 40 steps; a rise may end with the run, what begins then never does."""
  fields = {'num_clusters': 5, 'bn_groups': 0} if name == 'interclr' else {}
  rises = field == 'teacher_warmup'
  if rises:
    assert notes(name, teacher_warmup='41 steps') == ()  # From 0.04 to 0.04.
    fields = {'teacher_temperature': 0.07}
  assert notes(name, **fields, **{field: '40 steps' if rises else '39 steps'}) == ()
  (note,) = notes(name, **fields, **{field: '41 steps' if rises else '40 steps'})
  assert note.startswith(f"{field}='") and 'the run has 40 steps' in note and never in note
  if field == 'queue_from':
    assert notes(name, queue_from='40 steps', queue_size=0) == ()


def test_a_first_temperature_without_a_rise():
  fields = {'teacher_temperature_start': 0.02}
  (note,) = notes('dino', **fields)
  assert note.startswith('teacher_temperature_start=0.02 is not used') and 'is 0.04' in note
  assert notes('dino', teacher_warmup='2 steps', **fields) == ()
  assert notes('dino', teacher_temperature=0.02, **fields) == ()


def test_a_queue_that_never_fills():
  """40 steps of 256 images: it is full before the last of them, or takes part in none."""
  assert notes('swav', queue_size=39 * 256) == ()
  (note,) = notes('swav', queue_size=39 * 256 + 1)
  assert note.startswith('queue_size=9,985 takes 40 steps of 256 images to fill')
  assert 'the run has 40 steps: the queue never takes part in the codes' in note
  # One sentence is enough.
  assert len(notes('swav', queue_size=10**4, queue_from='40 steps')) == 1


def test_losses_of_single_images_are_silent():
  for name in ('byol', 'simsiam', 'moco', 'dino'):
    fields = {'queue_size': 64, 'bn_groups': 0} if name == 'moco' else {}
    assert notes(name, accumulate=4, **fields) == ()
  for name in ('simclr', 'moco_v3', 'nnclr', 'barlow_twins', 'vicreg', 'w_mse'):
    fields = {'memory_size': 0} if name == 'simclr' else {}
    assert notes(name, accumulate=4, **fields) == ()
