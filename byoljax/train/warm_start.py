"""Warm starts: a run of any method that begins with weights that exist already.

The encoder's weights and running statistics replace the random ones in the online network and in
the target, where there is one; heads that fit are replaced, too, if asked for. Everything else
(queues, prototypes, the optimizer's state) is as at the start of any run. Values that a method fits
to the images before step 0, a palette or scales, are those of the given weights.

    encoder = warm_start.load('runs/byol', mean=mean, std=std)  # or resnet50.pth
    run, report = warm_start.warm_started(run, encoder)
"""

from collections.abc import Mapping, Sequence
import dataclasses
import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from byoljax.config import expanded, user_errors
from byoljax.data.sources import pixels
from byoljax.encoders import load as load_lib
from byoljax.encoders.encoder import Encoder, Preprocessing
from byoljax.method import Target
from byoljax.ops import trees
from byoljax.train.run import Run
from byoljax.weights import importing
from byoljax.workdir import checkpoint

PyTree = Any
# Options of an encoder that change how its weights are used, but not their shapes.
_MEANING = ('name', 'input', 'stem', 'padding', 'output_stride', 'pool', 'positions', 'resnet_d',
            'patch_size', 'grid')  # fmt: skip
_MOST = 12  # names of parameters in a list
_PROBE = 'probe'  # The online probe has seen labels: it is never taken over.


class Start(NamedTuple):
  """What a warm start replaces.

  Attributes:
    roles: of every part that is replaced, the path of its parameters, that of its running
      statistics, both to the role, and the role of the given weights.
    report: what is replaced and what is not, for a person.
  """

  roles: tuple[tuple[tuple[str, ...], tuple[str, ...], str], ...]
  report: str


def load(
  path: str,
  *,
  mean: Sequence[float],
  std: Sequence[float],
  range_: str = '',
  fields: Mapping[str, Any] | None = None,
  heads: bool = False,
  module: Any = None,
) -> Encoder:
  """The weights to start from.

  Args:
    path: a run's directory, or one of its checkpoints/<step>, whose online network is read; the
      directory of imported weights; or a file that `weights.importing` reads.
    mean: of the images of the new run, where a file does not say for which it was made.
    std: as `mean`.
    range_: `config.data.range` of the new run, as `mean`.
    fields: `config.encoder` of the new run: what a file's weights do not tell.
    heads: whether the heads of the run are read as well.
    module: the linen module of the run, where it is one of the user's own.

  Raises:
    ConfigError: nothing there that can be read.
  """
  home = expanded(path)
  if not _is_run(home):
    with user_errors('config.init_from'):
      return importing.encoder_of(
        path, fields or {}, mean=tuple(mean), std=tuple(std), range_=range_
      ).encoder
  loaded = load_lib.load_taps(str(home), 'online', (load_lib.EMBEDDING,), module=module)
  if not heads:
    return loaded.encoder
  where, _ = load_lib.NETWORKS['online']
  with user_errors('config.init_from'):
    there = checkpoint.stored_names(loaded.directory, where)
  roles = [role for role in there if role not in (*loaded.encoder.params, _PROBE)]
  params, bn = load_lib.stored_parts(loaded.directory, 'online', roles)
  encoder = loaded.encoder
  return dataclasses.replace(encoder, params=encoder.params | params, bn=encoder.bn | bn)


def _is_run(path: pathlib.Path) -> bool:
  """Whether this is a run or one of its checkpoints, rather than a file with weights."""
  step = path.parent.name == 'checkpoints' and path.name.isdecimal()
  return step or (path / 'checkpoints').is_dir()


def find(
  params: PyTree,
  method_state: PyTree,
  encoder: Encoder,
  *,
  heads: bool = False,
  targets: Sequence[Target] = (Target(),),
) -> Start:
  """What a warm start would replace; only shapes matter, nothing is computed.

  Args:
    params: of the new run, by role.
    method_state: of the new run.
    encoder: the weights, by role.
    heads: whether heads that fit are replaced as well.
    targets: see `Method.targets`.

  Raises:
    ValueError: the encoder does not fit; missing, unexpected and misshapen names are listed.
  """
  state = {'params': params, 'method_state': method_state}
  roles, lines = [], []
  networks = [Target(*load_lib.NETWORKS['online'])]
  networks += [
    each._replace(params=('method_state', *each.params), bn=('method_state', *each.bn))
    for each in targets
  ]
  for network in networks:
    own, own_bn = (trees.at(state, path) for path in (network.params, network.bn))
    if own is None or 'encoder' not in own:
      continue
    found, kept = [], []
    for role in own:
      given = network.online(role)
      differ = _differences(own[role], (own_bn or {}).get(role, {}), encoder, given)
      if role == 'encoder' and differ:
        raise ValueError(_refusal(encoder, differ))
      if role == 'encoder' or (heads and role != _PROBE and not differ):
        found.append(role)
        roles.append(((*network.params, role), (*network.bn, role), given))
      elif heads and role != _PROBE:
        kept.append(f'{role} ({differ[0]})')
    line = f'{_name(network)}: {", ".join(found)} from the given weights'
    lines.append(line + (f'; drawn at random: {", ".join(kept)}' if kept else ''))
  unused = [role for role in encoder.params if role not in {role for _, _, role in roles}]
  if unused and heads:
    lines.append(f'not used: {", ".join(unused)}')
  return Start(tuple(roles), '\n'.join(lines))


def _name(network: Target) -> str:
  kind = 'target' if network.params[0] == 'method_state' else 'online'
  return f'{kind} network' + (f" of '{network.prefix.removesuffix('_')}'" if network.prefix else '')


def replace(
  params: PyTree,
  method_state: PyTree,
  encoder: Encoder,
  *,
  heads: bool = False,
  targets: Sequence[Target] = (Target(),),
) -> tuple[PyTree, PyTree, str]:
  """Parameters and method state with the encoder's weights in their places, and a report.

  Args:
    params: of a run at step 0, by role.
    method_state: of the run.
    encoder: the weights, by role; every place gets a copy of its own.
    heads: whether heads that fit are replaced as well.
    targets: see `Method.targets`.

  Raises:
    ValueError: the encoder does not fit; missing, unexpected and misshapen names are listed.
  """
  start = find(params, method_state, encoder, heads=heads, targets=targets)
  state: Any = {'params': params, 'method_state': method_state}
  for where, where_bn, role in start.roles:
    for path, given in ((where, encoder.params), (where_bn, encoder.bn)):
      own = trees.at(state, path)
      if own is None:  # A head without running statistics.
        continue
      # Copies of the same kind of tree: the state is donated, and its structure is compared.
      leaves = [jnp.array(leaf) for leaf in jax.tree.leaves(given[role])]
      state = trees.replaced(state, path, jax.tree.unflatten(jax.tree.structure(own), leaves))
  return state['params'], state['method_state'], start.report


def warm_started(run: Run, encoder: Encoder, *, heads: bool = False) -> tuple[Run, str]:
  """A run whose state at step 0 has the encoder's weights, and a report.

  A resumed run does not come here: it has its own weights. The optimizer's state is made from the
  random weights, which matters only to optimizers that keep copies of parameters. What the method
  would fit to the images before step 0 (`Refresh.initial`) is left out.

  Args:
    run: a `Run`.
    encoder: the weights.
    heads: whether heads that fit are replaced as well.

  Raises:
    ValueError: the encoder does not fit.
  """
  shapes = jax.eval_shape(run.create)
  options: dict[str, Any] = {'heads': heads, 'targets': run.method.targets}
  start = find(shapes.params, shapes.method_state, encoder, **options)

  def create() -> Any:
    state = run.create()
    params, method_state, _ = replace(state.params, state.method_state, encoder, **options)
    return state.replace(params=params, method_state=method_state)

  method, report = run.method, start.report
  if method.refresh is not None and method.refresh.initial:
    method = method._replace(refresh=None)
    report += '\nnot fitted to the images before step 0: it would replace the given weights'
  return run._replace(create=create, method=method), report


def differences(
  encoder: Encoder, fields: Mapping[str, Any], preprocessing: Preprocessing
) -> list[str]:
  """What fits and still is not the same: options and numbers that give weights a meaning.

  Args:
    encoder: the weights.
    fields: `config.encoder` of the new run.
    preprocessing: of its images; their size may be another one.
  """
  there, here = (
    {f'encoder.{name}': options.get(name) for name in _MEANING}
    # Images of 8 bits are read by what their files say, too.
    | {'data.mean': its.mean, 'data.std': its.std, 'data.range': its.range or pixels.FILE}
    for options, its in ((encoder.fields, encoder.preprocessing), (fields, preprocessing))
  )
  return [
    f'{name} is {here[name]!r} here, {value!r} where the weights were trained'
    for name, value in there.items()
    if None not in (value, here[name]) and value != here[name]
  ]


def _refusal(encoder: Encoder, differ: list[str]) -> str:
  name = encoder.fields.get('name', 'given')
  shown = differ[:_MOST] + ([f'and {len(differ) - _MOST} more'] if len(differ) > _MOST else [])
  return (
    f"the {name} encoder's weights do not fit this run's encoder; set config.encoder to the "
    'options that they were trained with:\n  ' + '\n  '.join(shown)
  )


def _differences(params: PyTree, bn: PyTree, encoder: Encoder, role: str) -> list[str]:
  """Names that are missing, unexpected or of another shape in the given weights."""
  if role not in encoder.params:
    return ['not among the given weights']
  given = _shapes((encoder.params[role], encoder.bn.get(role, {})))
  wanted = _shapes((params, bn))
  lines = [f'missing: {name} {shape}' for name, shape in wanted.items() if name not in given]
  lines += [f'unexpected: {name} {shape}' for name, shape in given.items() if name not in wanted]
  return lines + [
    f'of another shape: {name} {given[name]}, not {shape}'
    for name, shape in wanted.items()
    if name in given and given[name] != shape
  ]


def _shapes(trees: tuple[PyTree, PyTree]) -> dict[str, tuple[int, ...]]:
  return {
    jax.tree_util.keystr(path, simple=True, separator='/'): tuple(leaf.shape)
    for tree in trees
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
  }
