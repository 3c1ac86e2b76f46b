"""Who may import whom: the layers of CONTRIBUTING.md, walked over the syntax trees."""

import ast
import functools
import graphlib
import pathlib

from tests.paths import ROOT

PACKAGE = ROOT / 'byoljax'
MODULES = sorted(p.relative_to(PACKAGE).as_posix() for p in PACKAGE.rglob('*.py'))

# A wing is a folder of the package, or a module at its root; data/ has four. Which others each may
# import, from the lowest to the highest.
_LEAVES = {'version', 'streams', 'suggest', 'length', 'own', 'hub', 'wording'}  # Nothing of ours.
_NUMERICS = {'devices', 'losses', 'ops', 'models'}
_DATA = {'data/fields', 'data/augment', 'data/sources', 'data/batches'}
_TRAINING = _LEAVES | _NUMERICS | _DATA | {
  'config', 'encoders', 'evals', 'method', 'methods', 'optim', 'step', 'workdir'
}  # fmt: skip
LAYERS = {
  **{leaf: set() for leaf in _LEAVES},
  'config': {'suggest'},
  'devices': {'version'},
  'ops': {'devices', 'streams'},
  'losses': {'devices', 'ops', 'streams'},
  'evals': {'devices', 'losses', 'ops', 'streams', 'suggest'},
  'models': {'devices', 'ops', 'own', 'streams', 'suggest'},
  'optim': {'devices', 'length', 'ops', 'own', 'streams', 'suggest', 'wording'},
  'workdir': {'config', 'devices', 'suggest', 'version'},
  'data': set(),
  'data/fields': {'suggest', 'wording'},
  'data/augment': {'data/fields', 'devices', 'own', 'streams', 'suggest', 'wording'},
  'data/sources': {'data/fields', 'hub', 'own', 'streams', 'suggest', 'wording', 'workdir/files'},
  'data/batches': {'data/augment', 'data/fields', 'data/sources', 'devices', *_LEAVES},
  'method': {'devices', 'length', 'losses', 'ops/sampling', 'streams'},
  'methods': {
    'data/augment',
    'data/fields',
    'evals/image_quality',
    'evals/segmentation',
    'method',
    *_NUMERICS,
    *_LEAVES,
  },
  'accumulation': {'devices', 'method'},
  'step': {'accumulation', 'devices', 'method', 'streams'},
  'encoders': {'config', 'method', 'methods', 'workdir', *_NUMERICS, *_DATA, *_LEAVES},
  'weights': {'config', 'encoders', 'models', 'ops', 'workdir', *_LEAVES},
  'train': _TRAINING | {'weights'},
  'protocols': _TRAINING | {'train'},
  'flags': {'config', 'devices', 'suggest'},
  'report': _TRAINING | {'train', 'protocols', 'flags'},
  'plan': _TRAINING | {'train', 'report', 'flags'},
  'web': {'config', 'report', 'version', 'wording', 'workdir'},
  'tasks': _TRAINING | {'train', 'protocols', 'weights', 'report', 'plan', 'web'},
  'main': {'config', 'devices', 'flags', 'tasks', 'version', 'workdir'},
  'cli': {'config', 'flags', 'main', 'suggest', 'tasks', 'version', 'workdir/activity'},
  '__main__': {'cli', 'devices'},
  'api': _TRAINING | {'protocols', 'train', 'report', 'weights', 'tasks', 'main', 'cli'},
  # The public functions, each of which imports what it needs when it is called.
  '__init__': {'api', 'encoders', 'version'},
}
HEAVY = {'tensorflow', 'tensorflow_datasets', 'flax', 'optax', 'orbax', 'matplotlib', 'absl',
         'ml_collections', 'tensorboardX', 'torch', 'sklearn', 'shtab', 'wandb',
         'mlflow', 'huggingface_hub'}  # fmt: skip
# Which of them a folder or file may import; the longest prefix counts.
HEAVY_ALLOWED = {
  'models/': {'flax'},
  'methods/': {'flax'},
  'method.py': {'flax'},
  'accumulation.py': {'optax'},
  'step.py': {'flax', 'optax'},
  'optim/': {'optax'},
  'train/': {'flax', 'optax'},
  'encoders/': {'flax'},
  'weights/': {'flax'},
  'hub.py': {'huggingface_hub'},
  'evals/': {'sklearn'},
  'data/sources/': {'tensorflow', 'tensorflow_datasets'},
  'data/batches/': {'tensorflow'},
  'workdir/checkpoint.py': {'orbax'},
  'workdir/restore.py': {'orbax'},
  'workdir/metrics.py': {'tensorboardX'},
  'workdir/sinks.py': {'wandb', 'mlflow'},
  'report/': {'flax', 'matplotlib', 'sklearn', 'tensorboardX'},
  'config.py': {'ml_collections'},
  'tasks/': {'ml_collections'},
  'cli.py': {'shtab'},
}
# Modules of data/ that run on machines with nothing but JAX, beside all of data/augment.
PURE_DATA = (
  'data/sources/source.py',
  'data/sources/arrays.py',
  'data/sources/memory.py',
  'data/sources/series.py',
  'data/fields.py',
  'data/batches/order.py',
  'data/batches/resident.py',
)
# Who sees a configuration as such: tasks read it, others store it or read one that was stored.
CONFIGURED = ('config.py', 'main.py', 'tasks/', 'api/', 'train/assemble.py', 'workdir/run_dir.py',
              'workdir/stored_config.py', 'encoders/', 'report/contents.py', 'report/facts.py',
              'report/own_images.py',
              'plan/')  # fmt: skip
# All that may lie at the root beside folders.
ROOT_MODULES = {'__init__', '__main__', 'accumulation', 'cli', 'config', 'flags', 'hub', 'length',
                'main', 'method', 'own', 'step', 'streams', 'suggest', 'version',
                'wording'}  # fmt: skip


def row(table, module):
  matches = [prefix for prefix in table if module == prefix or
             (prefix.endswith('/') and module.startswith(prefix))]  # fmt: skip
  return table[max(matches, key=len)] if matches else set()


@functools.cache
def tree(module):
  return ast.parse((PACKAGE / module).read_text())


@functools.cache
def imports(module):
  """Every imported dotted name, those inside functions included."""
  names = set()
  for node in ast.walk(tree(module)):
    if isinstance(node, ast.Import):
      names |= {alias.name for alias in node.names}
    elif isinstance(node, ast.ImportFrom):
      assert node.level == 0, f'{module}: relative import'
      names |= {f'{node.module}.{alias.name}' for alias in node.names}
  return names


def module_level_imports(module):
  """Every dotted name that is imported with the module."""
  names = set()
  for node in tree(module).body:
    if isinstance(node, ast.Import):
      names |= {alias.name for alias in node.names}
    elif isinstance(node, ast.ImportFrom):
      names |= {f'{node.module}.{alias.name}' for alias in node.names}
  return names


def libraries(names):
  return {name.split('.')[0] for name in names}


def own_modules(names):
  """The modules of the package among dotted names, as paths without suffix."""
  found = set()
  for name in names:
    first, *parts = name.split('.')
    if first != 'byoljax':
      continue
    while parts:
      path = PACKAGE.joinpath(*parts)
      if path.with_suffix('.py').exists() or (path / '__init__.py').exists():
        break
      parts.pop()  # What is left is a name inside of a module.
    found.add('/'.join(parts) or '__init__')
  return found


def own_imports(module):
  """The modules of the package that a module imports, as paths without suffix."""
  return own_modules(imports(module))


def wing(path):
  """The wing of a module's path."""
  parts = path.removesuffix('.py').removesuffix('/__init__').split('/')
  return '/'.join(parts[: 2 if parts[0] == 'data' else 1])


def test_layers():
  """A module imports no layer that it may not know, and no library of another layer."""
  broken = []
  for module in MODULES:
    allowed = {wing(module), *LAYERS[wing(module)]}
    others = {other for other in own_imports(module) if not {other, wing(other)} & allowed}
    heavy = libraries(imports(module)) & HEAVY - row(HEAVY_ALLOWED, module)
    broken += [f'{module} imports {name}' for name in sorted(others | heavy)]
  assert not broken


def test_no_import_runs_back_up():
  """The table has an order; so nothing that keeps to it can import in a circle."""
  wings = {name: {wing(other) for other in allowed} for name, allowed in LAYERS.items()}
  order = list(graphlib.TopologicalSorter(wings).static_order())
  assert {wing(module) for module in MODULES} == set(order)


def test_no_modules_import_in_a_circle():
  """Within a wing, too, and with what functions import."""
  graph = {
    module.removesuffix('.py').removesuffix('/__init__'): own_imports(module) for module in MODULES
  }
  list(graphlib.TopologicalSorter(graph).static_order())  # CycleError names the circle.


def test_the_command_line_imports_jax_late():
  """`byoljax --help` and mistakes in a configuration are answered at once; see test_startup.py."""
  seen, due = set(), {'cli', 'main', 'tasks'}
  while due:
    path = due.pop()
    seen.add(path)
    module = f'{path}.py' if (PACKAGE / f'{path}.py').exists() else f'{path}/__init__.py'
    early = module_level_imports(module)
    heavy = libraries(early) & (HEAVY - {'ml_collections'} | {'jax', 'PIL'})
    assert not heavy, f'{module} imports {heavy} when a command line starts'
    parents = {'/'.join(path.split('/')[:depth]) for depth in range(1, path.count('/') + 1)}
    due |= (own_modules(early) | parents) - seen
  assert 'workdir/run_dir' in seen


def test_the_root_holds_little():
  assert {module.removesuffix('.py') for module in MODULES if '/' not in module} == ROOT_MODULES


def is_method(module):
  """Whether a module builds a method, one of the table METHODS."""
  return module.startswith('methods/') and any(
    isinstance(node, ast.FunctionDef) and node.name == 'build' for node in tree(module).body
  )


def test_no_method_imports_another():
  methods = {module.removesuffix('.py') for module in filter(is_method, MODULES)}
  for own in methods:
    assert not own_imports(f'{own}.py') & (methods - {own} | {'methods'}), own


def test_tensorflow_is_imported_late():
  late = {'tensorflow', 'tensorflow_datasets', 'matplotlib', 'tensorboardX', 'sklearn'}
  assert not [module for module in MODULES if libraries(module_level_imports(module)) & late]


def test_arrays_need_no_tensorflow():
  for module in (*PURE_DATA, *(m for m in MODULES if 'data/augment/' in m)):
    assert not libraries(imports(module)) & {'tensorflow', 'tensorflow_datasets'}, module
    assert 'data/sources/tensorflow_import' not in own_imports(module), module


def test_configurations_are_read_at_the_top():
  read = {'byoljax.config.Config', 'ml_collections.ConfigDict'}
  below = [module for module in MODULES if not module.startswith(CONFIGURED)]
  assert not [module for module in below if imports(module) & read]


def test_no_method_is_named_outside_methods():
  """No branch on a method's name: `== 'byol'` and the like."""
  names = {pathlib.Path(module).stem for module in filter(is_method, MODULES)}
  assert len(names) > 15
  for module in MODULES:
    if module.startswith('methods/'):
      continue
    for node in ast.walk(tree(module)):
      if isinstance(node, ast.Compare):
        constants = {c.value for c in [node.left, *node.comparators] if isinstance(c, ast.Constant)}
        assert not constants & names, f'{module}:{node.lineno} branches on a method'


def test_no_drawer_modules():
  for module in MODULES:
    assert pathlib.Path(module).stem not in {'utils', 'util', 'common', 'helpers', 'misc'}
