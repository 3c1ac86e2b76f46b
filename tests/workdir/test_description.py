"""What a run says of itself: the texts that lists, reports and services show."""

import pytest

from byoljax.workdir import description


@pytest.mark.parametrize(
  'folder', ['mine/byol.pytorch', 'a/.pyenv/versions/3.11.7/lib/python3.11/configs', '.']
)
def test_recipes_are_named_wherever_they_lie(folder):
  assert description.short_recipe(f'{folder}/byol.py:cifar10,100') == 'byol:cifar10,100'
  assert description.short_recipe(f'{folder}/byol.py') == 'byol'


def test_settings_are_flat_text():
  assert description.flat({'a': {'b': 1, 'c': {}}, 'd': [1.5], 'e': 'x', 'f': float('nan')}) == {
    'a.b': '1', 'a.c': '{}', 'd': '[1.5]', 'e': 'x', 'f': 'NaN'
  }  # fmt: skip


@pytest.mark.parametrize(
  'text', ['', '[]', '{"config": 1, "recipe": ""}', '{"recipe": "byol.py"}', '[' * 9999]
)
def test_what_is_no_run_says_nothing(tmp_path, text):
  assert description.read(tmp_path) == {}
  (tmp_path / 'config.json').write_text(text)
  assert description.read(tmp_path) == {}


def test_a_run_without_facts(tmp_path):
  (tmp_path / 'config.json').write_text('{"config": {}, "recipe": "byol.py"}')
  assert description.read(tmp_path) == {'config': {}, 'recipe': 'byol.py', 'facts': {}}
