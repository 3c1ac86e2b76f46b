"""Import paths of what is the user's own."""

import functools
import json

import flax.linen as nn
import jax.numpy as jnp
import pytest

from byoljax import models, own
from byoljax.encoders.encoder import Preprocessing, network


class Mine(nn.Module):
  """An encoder of three fields."""

  features: int = 8
  sizes: tuple[int, ...] = (3, 3)
  weights: object = None

  @nn.compact
  def __call__(self, x, *, train):
    return nn.Dense(self.features)(x.mean((1, 2)))


def factory(bn_axis, bn_groups=0):
  return Mine(4)


@pytest.fixture(autouse=True)
def _nothing_given(monkeypatch):
  monkeypatch.setattr(own, '_GIVEN', {})


@pytest.mark.parametrize(
  ('thing', 'rest'),
  [
    (Mine(), 'Mine'),
    (Mine(16), 'Mine(features=16)'),
    (Mine(sizes=(1, 2)), 'Mine(sizes=(1, 2))'),
    (Mine, 'Mine'),
    (factory, 'factory'),
  ],
)
def test_a_path_leads_back(thing, rest):
  path = own.give(thing)
  assert path == f'{__name__}:{rest}' and own.find('encoder', path) is thing
  own._GIVEN.clear()  # As in another process.
  found = own.find('encoder', path)
  assert found == (Mine if thing == Mine() else thing)
  module = models.make_encoder(path)
  assert isinstance(module, Mine)


def test_partials_and_arguments_that_are_no_literals():
  assert own.give(functools.partial(factory, bn_groups=2)).endswith(':factory(bn_groups=2)')
  path = own.give(Mine(weights=jnp.ones(2)))
  assert path.endswith(':Mine(...)') and own.find('encoder', path).weights.shape == (2,)
  assert own.give(Mine(weights=jnp.ones(2))) == path, 'a cell that runs again'
  other = Mine(weights=jnp.zeros(2))
  assert own.give(other) == path.replace('(...)', '(...2)')
  assert own.find('encoder', own.give(other)) is other and own.find('encoder', path) is not other
  third, fourth = (functools.partial(factory, axis) for axis in 'ab')
  assert own.give(third).endswith(':factory(...)')
  assert own.give(fourth).endswith(':factory(...2)') and own.give(third).endswith('(...)')
  own._GIVEN.clear()
  with pytest.raises(ValueError, match='arguments that cannot be written down'):
    own.find('encoder', path.replace('(...)', '(...2)'))
  with pytest.raises(ValueError, match='arguments that cannot be written down'):
    own.find('encoder', path)


@pytest.mark.parametrize(
  ('path', 'sentence'),
  [
    ('no_such_module:Net', r"encoder 'no_such_module:Net' cannot be imported \(No module named"),
    (f'{__name__}:Nett', 'defines no Nett'),
    ('__main__:Net', 'in the script or notebook that made the run'),
    ('os:system', 'defines no system'),
    ('subprocess:getoutput(cmd="true")', 'only a linen module may have arguments'),
    (f'{__name__}:Mine(width=2)', 'cannot be made.*width'),
    (f'{__name__}:Mine(features=len("ab"))', 'cannot be made: malformed'),
    (f'{__name__}:Mine(3)', 'arguments are keywords'),
    (f'{__name__}:json', 'defines no json'),
  ],
)
def test_what_is_missing_or_might_run_is_named(path, sentence):
  with pytest.raises(ValueError, match=sentence) as caught:
    own.find('encoder', path)
  assert '\n' not in str(caught.value) and json


def test_what_was_defined_anew_is_another_network():
  preprocessing = Preprocessing((0.5,) * 3, (0.25,) * 3, 8)
  path = own.give(Mine())
  first = network({'name': path}, preprocessing)
  assert network({'name': path}, preprocessing) is first
  names = {'__module__': Mine.__module__, '__qualname__': Mine.__qualname__}
  again = type('Mine', (Mine,), names)
  assert own.give(again()) == path
  assert network({'name': path}, preprocessing) is not first


def test_options_of_ours_do_not_reach_it():
  path = own.give(Mine())
  assert models.make_encoder(path, stem='imagenet', dtype='bfloat16') == Mine()
  with pytest.raises(ValueError, match="a module of one's own and has no stem"):
    models.make_encoder(path, stem='cifar')
