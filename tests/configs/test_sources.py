"""Recipes against the settings of the published numbers that they name."""

import sys

import pytest

from tests.paths import ROOT

sys.path.append(str(ROOT / 'docs' / 'tools'))
import recipe_sources as tool  # noqa: E402

SOURCES = tool.SOURCES


@pytest.mark.parametrize('card', sorted(SOURCES))
def test_the_card_lists_every_difference(card):
  """`python docs/tools/recipe_sources.py --write` brings the cards up to date."""
  text = (ROOT / 'docs' / 'methods' / f'{card}.md').read_text()
  assert tool.with_table(text, card) == text


def test_fields_that_differ_are_few_and_known():
  """A change of a recipe that moves it away from its source is noticed here, and on the card."""
  found = {
    (recipe, path.strip('`'))
    for recipes in SOURCES.values()
    for recipe, source in recipes.items()
    for path in tool.differences(recipe, source)[0]
  }
  assert found == {('barlow_twins:imagenet,1000', 'optim.groups')}


def test_what_is_compared():
  """Numbers that were wrong once."""
  for recipe, path, value in (
    ('vicreg:cifar10,1000', 'method.halved_variance', False),
    ('vicreg:imagenet,100', 'optim.base_lr', 0.2),
    ('simclr:imagenet,100', 'optim.weight_decay', 1e-4),
    ('simclr:imagenet,800,v2', 'encoder.selective_kernel', True),
    ('dino:imagenet,100', 'train.batch_size', 512),
    ('dino:imagenet,100', 'encoder.positions', 'learned'),
    ('moco:imagenet,200', 'views.view2.resize', 'bilinear'),
    ('w_mse:cifar10,1000', 'method.whiten_draws', 1),
  ):
    assert SOURCES[recipe.partition(':')[0]][recipe].fields[path] == value
