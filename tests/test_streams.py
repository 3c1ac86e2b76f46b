"""Every use of random numbers names its stream, and no two uses share one."""

import ast
import functools

import pytest

from byoljax import streams
from tests.paths import ROOT

SOURCES = {path: path.read_text() for path in sorted((ROOT / 'byoljax').rglob('*.py'))}
STREAMS = {name: value for name, value in vars(streams).items() if name.isupper()}


@functools.cache
def all_calls(source):
  return [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]


def calls(name, source):
  """The calls of a function of that name, however it is reached."""
  for node in all_calls(source):
    if name == getattr(node.func, 'attr', getattr(node.func, 'id', None)):
      yield node


def stream_of(node):
  """The name of the stream that an expression is, or None."""
  text = ast.unparse(node)
  name = text.removeprefix('streams.')
  return name if text != name and name in STREAMS else None


def has_number(node):
  return any(
    isinstance(part, ast.Constant) and isinstance(part.value, int) for part in ast.walk(node)
  )


def mistakes(source):
  """What a module's draws lack; a list of their sources."""
  found = [
    ast.unparse(call)
    for call in calls('fold_in', source)
    if stream_of(call.args[1]) is None and has_number(call.args[1])
  ]
  for call in calls('default_rng', source):
    (seed,) = call.args or (ast.Constant(0),)
    named = isinstance(seed, ast.Tuple) and len(seed.elts) > 1 and stream_of(seed.elts[1])
    # A seed that is handed through names its stream where it is made; see the next test.
    if not named and not isinstance(seed, ast.Name):
      found.append(ast.unparse(call))
  return found


def test_every_draw_names_its_stream():
  found = {str(path): mistakes(source) for path, source in SOURCES.items()}
  assert not {path: wrong for path, wrong in found.items() if wrong}


def test_seeds_that_are_handed_through_name_their_stream():
  """`seed=(seed, ...)` in a call."""
  for path, source in SOURCES.items():
    for call in all_calls(source):
      for keyword in call.keywords:
        if keyword.arg == 'seed' and isinstance(keyword.value, ast.Tuple):
          assert stream_of(keyword.value.elts[1]), f'{path}: {ast.unparse(call)}'


def test_the_numbers_are_different_and_used():
  assert len(set(STREAMS.values())) == len(STREAMS)
  assert min(STREAMS.values()) > 1000, 'parts of a network are counted from 0 in the same keys'
  text = ''.join(SOURCES.values())
  unused = [name for name in STREAMS if f'streams.{name}' not in text]
  assert not unused


@pytest.mark.parametrize(
  'wrong',
  [
    'jax.random.fold_in(key, 1)',
    'fold_in(key, 2 + crop)',
    'jax.random.fold_in(key, 1 << 20)',
    'np.random.default_rng((seed, 1))',
    'np.random.default_rng(0)',
    'np.random.default_rng()',
    'np.random.default_rng((seed, epoch))',
    'np.random.default_rng((seed, streams.NO_SUCH_STREAM))',
  ],
)
def test_mistakes_would_be_found(wrong):
  assert mistakes(wrong)
  right = 'fold_in(fold_in(key, streams.QUEUE), crop); default_rng((seed, streams.ORDER, epoch))'
  assert not mistakes(right)
