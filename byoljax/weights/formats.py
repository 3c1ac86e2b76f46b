"""What has to be known of another library to put its weights in place, and the placing itself.

Every format is one value of `Format`, in a module of its own; `importing.FORMATS` is the table.
"""

from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

from flax.traverse_util import flatten_dict, unflatten_dict
import numpy as np

from byoljax.models.resnet import RESNETS

PyTree = Any
State = Mapping[str, np.ndarray]
Path = tuple[str, ...]


class Found(NamedTuple):
  """What weights tell about their encoder.

  Attributes:
    fields: those of `config.encoder` that follow from the weights.
    image_size: side of the images that they were made for; 0 where nothing says so.
    mean: per channel, of images in [0, 1], where the format fixes it.
    std: per channel.
    range: which numbers of their images are black and white, see `Preprocessing`; '' where nothing
      says so.
    doubt: what the weights do not tell and was assumed, for the person who reads.
  """

  fields: dict[str, Any]
  image_size: int = 0
  mean: tuple[float, ...] | None = None
  std: tuple[float, ...] | None = None
  range: str = ''
  doubt: str = ''


class Format(NamedTuple):
  """Names and layout of one library's encoders; a prefix stands before every name that counts.

  Attributes:
    what: the networks and their names, for messages.
    prefixes: all names -> the prefixes behind which there is such an encoder.
    find_out: (arrays by name, prefix, fields of `config.encoder`) -> what they are. Raises
      ValueError: none that is known.
    names: (arrays, prefix, what was found) -> function from a path of our leaves to its name.
    turned: (path, their array) -> the array in our layout; arrays of an odd shape as they are.
    inside: (prefix, name) -> whether a name belongs to the encoder, so that one without a
      counterpart means that it computes something else.
    completed: (arrays, prefix) -> arrays, with what another library leaves out because it is zero.
    beside: (arrays, prefix, what was found) -> {role: parameters} of heads that a method of ours
      has as well, and names that were read beside the encoder's parameters. Raises ValueError: they
      are not complete.
  """

  what: str
  prefixes: Callable[[Collection[str]], list[str]]
  find_out: Callable[[State, str, Mapping[str, Any]], Found]
  names: Callable[[State, str, Found], Callable[[Path], str]]
  turned: Callable[[Path, np.ndarray], np.ndarray]
  inside: Callable[[str, str], bool]
  completed: Callable[[State, str], State] = lambda state, prefix: state
  beside: Callable[[State, str, Found], tuple[dict[str, PyTree], set[str]]] = (
    lambda state, prefix, found: ({}, set())
  )


def placed(
  form: Format, state: State, prefix: str, found: Found, params: PyTree, batch_stats: PyTree
) -> tuple[PyTree, PyTree, set[str]]:
  """Another library's arrays as an encoder's parameters and statistics, float32, and their names.

  Args:
    form: whose names they are.
    state: arrays by name.
    prefix: stands before every name that counts.
    found: what `form.find_out` said.
    params: what is wanted: a tree with the names and shapes, values do not matter.
    batch_stats: the same for the running statistics.

  Raises:
    ValueError: names are missing or unexpected, or shapes differ; all of them are listed.
  """
  state = form.completed(state, prefix)
  name_of = form.names(state, prefix, found)
  missing, differ, known, made = [], [], set(), []
  for tree in (params, batch_stats):
    leaves: dict[Path, np.ndarray] = {}
    wanted: dict[Path, Any] = flatten_dict(tree)
    for path, own in wanted.items():
      name = name_of(path)
      known.add(name)
      if name not in state:
        missing.append(name)
        continue
      array = np.ascontiguousarray(form.turned(path, np.asarray(state[name], np.float32)))
      if array.shape != tuple(own.shape):
        differ.append(f'{name}: {array.shape}, not {tuple(own.shape)}')
      leaves[path] = array
    made.append(unflatten_dict(leaves))
  unexpected = [name for name in state if name not in known and form.inside(prefix, name)]
  if missing or differ or unexpected:
    told = {'missing': missing, 'of another shape': differ, 'unexpected': unexpected}
    lines = [f'{what}: {_listed(names)}' for what, names in told.items() if names]
    raise ValueError(
      f'the weights do not fit the encoder {found.fields["name"]}:\n  ' + '\n  '.join(lines)
    )
  return made[0], made[1], known


def resnet_of(bottleneck: bool, depth: tuple[int, ...]) -> str:
  """The name of the ResNet with these blocks in its stages.

  Raises:
    ValueError: none has them.
  """
  for name, form in RESNETS.items():
    if form == (bottleneck, depth):
      return name
  kind = 'bottleneck' if bottleneck else 'basic'
  raise ValueError(f'{depth} {kind} blocks are none of {", ".join(RESNETS)}.')


def depth_of(places: Collection[tuple[Any, ...]], first: int = 1) -> tuple[int, ...]:
  """Blocks in each stage, from the (stage, block) numbers of their names; blocks count from 0."""
  counts: dict[int, int] = {}
  for stage, block in places:
    number = int(stage) - first
    counts[number] = max(counts.get(number, 0), int(block) + 1)
  return tuple(counts[stage] for stage in sorted(counts))


def is_swiglu(first: np.ndarray | None, second: np.ndarray | None) -> bool:
  """Whether weights [out,in] of an MLP are SwiGLU's: gates and values, then their products."""
  if first is None or second is None or not first.ndim == second.ndim == 2:
    return False
  return len(first) == 2 * second.shape[1]


def _listed(names: list[str]) -> str:
  """The first few names, and how many more there are."""
  shown = ', '.join(names[:8])
  return shown if len(names) <= 8 else f'{shown} and {len(names) - 8} more'
