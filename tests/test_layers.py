"""Who may import whom: the layer table of CONTRIBUTING.md, walked over the syntax trees."""

import ast
import pathlib

import pytest

from tests.paths import ROOT

PACKAGE = ROOT / 'byoljax'
MODULES = sorted(str(p.relative_to(PACKAGE)) for p in PACKAGE.rglob('*.py'))

# Which layers of our own a layer may import, and which heavy libraries. A path belongs to the row
# with the longest matching prefix.
OWN = {
  '__init__.py': {'embedding'},
  'parallel.py': set(),
  'losses/': {'parallel', 'losses', 'ops'},
  'ops/': {'parallel', 'ops'},
  'models/': {'parallel', 'models'},
  'durations.py': set(),
  'method.py': {'durations', 'parallel', 'losses'},
  'pairwise.py': {'method', 'models'},
  'methods/': {'method', 'losses', 'ops', 'pairwise', 'parallel', 'models'},
  'methods/__init__.py': {'method', 'methods'},
  'step.py': {'method', 'parallel'},
  'optim/': {'ops', 'optim', 'parallel'},
  'data/': {'data', 'parallel'},
  'config.py': set(),
  'checkpoint.py': {'parallel', 'integrity', 'stored', ''},
  'stored.py': {'integrity'},
  'integrity.py': set(),
  'clock.py': set(),
  'metrics.py': {'progress'},
  'progress.py': set(),
  'signals.py': set(),
  'evals/': {'parallel', 'evals', 'losses'},
  'report/': {'metrics', 'report'},
  'report/__main__.py': {'cli'},
  'weights/': {
    'weights',
    'models',
    'checkpoint',
    'evaluate',
    'embedding',
    'config',
    'workdirs',
    '',
  },
  'weights/formats.py': {'models'},
  'weights/torch_names.py': {'weights'},
  'weights/vit_names.py': {'models', 'weights'},
  'weights/simclr_names.py': {'models', 'weights'},
  'weights/haiku_names.py': {'models', 'weights'},
  'weights/pickles.py': set(),
  'weights/crc32c.py': set(),
  'weights/torch_file.py': {'weights'},
  'weights/array_pickle.py': {'weights'},
  'weights/tf_file.py': {'weights'},
  'weights/files.py': {'weights'},
  'embedding.py': {'evaluate', 'data'},
  'plan/': {
    'assemble',
    'checkpoint',
    'config',
    'data',
    'layout',
    'main',
    'parallel',
    'plan',
    'report',
    '',
  },  # fmt: skip
  'cli.py': {'main', 'config', 'plan', 'report', 'search', 'report_run', ''},
  'search.py': {'config', 'data', 'embed_data', 'embedding', 'report'},
  'main.py': {'config', 'processes', 'program_cache', 'tasks', 'xla_flags', ''},
  'layout.py': {'parallel', 'step'},
  'processes.py': {'parallel', 'roll_call', ''},
  'roll_call.py': set(),
  'program_cache.py': set(),
  'xla_flags.py': set(),
}
HEAVY = {'tensorflow', 'tensorflow_datasets', 'flax', 'optax', 'orbax', 'matplotlib', 'absl',
         'ml_collections', 'tensorboardX', 'torch'}  # fmt: skip
HEAVY_ALLOWED = {
  'models/': {'flax'},
  'methods/': {'flax'},
  'step.py': {'flax', 'optax'},
  'optim/': {'optax'},
  'data/': {'tensorflow', 'tensorflow_datasets'},
  'checkpoint.py': {'orbax'},
  'stored.py': {'orbax'},
  'metrics.py': {'tensorboardX'},
  'report/': {'matplotlib', 'flax'},
  'report_run.py': {'tensorboardX'},
  'config.py': {'ml_collections'},
  'workdirs.py': {'ml_collections'},
  'assemble.py': {'ml_collections', 'optax'},
  'classify.py': {'ml_collections'},
  'transfer.py': {'ml_collections'},
  'tasks.py': {'ml_collections'},
  'eval_setup.py': {'ml_collections'},
  'weights/': {'flax'},
}
# The part of data/ that runs on machines with nothing but JAX.
PURE_DATA = ('draws', 'views', 'crop', 'photometric', 'branches', 'device', 'arrays', 'source',
             'memory', 'order', 'resident')  # fmt: skip


def row(table, module):
  matches = [prefix for prefix in table if module == prefix or
             (prefix.endswith('/') and module.startswith(prefix))]  # fmt: skip
  return table[max(matches, key=len)] if matches else None


def imports(module):
  """Every imported dotted name, those inside functions included."""
  names = set()
  for node in ast.walk(ast.parse((PACKAGE / module).read_text())):
    if isinstance(node, ast.Import):
      names |= {alias.name for alias in node.names}
    elif isinstance(node, ast.ImportFrom):
      assert node.level == 0, f'{module}: relative import'
      names |= {f'{node.module}.{alias.name}' for alias in node.names}
  return names


def module_level_imports(module):
  names = set()
  for node in ast.parse((PACKAGE / module).read_text()).body:
    if isinstance(node, ast.Import):
      names |= {alias.name.split('.')[0] for alias in node.names}
    elif isinstance(node, ast.ImportFrom):
      names.add(node.module.split('.')[0])
  return names


def own_layers(module):
  found = set()
  for name in imports(module):
    parts = name.split('.')
    if parts[0] == 'byoljax':
      is_module = len(parts) > 1 and (
        (PACKAGE / parts[1]).is_dir() or (PACKAGE / f'{parts[1]}.py').exists()
      )
      found.add(parts[1] if is_module else '')
  return found


@pytest.mark.parametrize('module', MODULES)
def test_layers(module):
  allowed = row(OWN, module)
  if allowed is not None:
    assert own_layers(module) <= allowed, 'imports a layer that it may not know'
  heavy = {name.split('.')[0] for name in imports(module)} & HEAVY
  assert heavy <= (row(HEAVY_ALLOWED, module) or set()), 'imports a library of another layer'


@pytest.mark.parametrize('module', [m for m in MODULES if m.startswith('methods/')])
def test_no_method_imports_another(module):
  if module != 'methods/__init__.py':
    assert 'methods' not in own_layers(module)


@pytest.mark.parametrize('module', MODULES)
def test_tensorflow_is_imported_late(module):
  early = module_level_imports(module)
  assert not early & {'tensorflow', 'tensorflow_datasets', 'matplotlib', 'tensorboardX'}


@pytest.mark.parametrize('name', PURE_DATA)
def test_arrays_need_no_tensorflow(name):
  assert not {n.split('.')[0] for n in imports(f'data/{name}.py')} & {
    'tensorflow', 'tensorflow_datasets'
  }  # fmt: skip


def test_no_method_is_named_outside_methods():
  """No branch on a method's name: `== 'byol'` and the like."""
  names = {p.stem for p in (PACKAGE / 'methods').glob('*.py')} - {'__init__'}
  for module in MODULES:
    if module.startswith('methods/'):
      continue
    for node in ast.walk(ast.parse((PACKAGE / module).read_text())):
      if isinstance(node, ast.Compare):
        constants = {c.value for c in [node.left, *node.comparators] if isinstance(c, ast.Constant)}
        assert not constants & names, f'{module}:{node.lineno} branches on a method'


def test_no_drawer_modules():
  for module in MODULES:
    assert pathlib.Path(module).stem not in {'utils', 'util', 'common', 'helpers', 'misc'}
