"""What all parts of a benchmark run share: interpreters, directories, how much to measure."""

from collections.abc import Callable
import os
import pathlib
import sys
from typing import NamedTuple

from contest import Contestant

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent


class Setting(NamedTuple):
  """A benchmark run.

  Attributes:
    scratch: directory for workdirs, pictures and logs, on a disk with about 1 GB free.
    torch_python: interpreter with PyTorch, torchvision and lightly; None leaves them out.
    torch_variants: how PyTorch runs the step: keys of VARIANTS in torch_step.py.
    dtypes: compute types of the steps and the products, of 'float32' and 'bfloat16'.
    data: folder of JPEGs, or None for drawn ones.
    cores: threads and data workers of every contestant.
    quick: tiny settings that prove that everything works; the numbers mean nothing.
    say: shows progress.
  """

  scratch: pathlib.Path
  torch_python: str | None
  torch_variants: tuple[str, ...]
  dtypes: tuple[str, ...]
  data: pathlib.Path | None
  cores: int
  quick: bool
  say: Callable[[str], None]

  @property
  def pause(self) -> float:
    """Seconds of silence before every turn."""
    return 0.1 if self.quick else 1.0

  @property
  def shapes_dir(self) -> str:
    """Where the built-in images are drawn: anew, or in a quick run the user's own."""
    return '' if self.quick else str(self.scratch / 'shapes')

  def ours(self, script: str, **changes: str) -> Contestant:
    """Starts a contestant with this interpreter, with changes of its environment."""
    return self._start(sys.executable, script, our_environment(**changes))

  def theirs(self, script: str) -> Contestant:
    """Starts a contestant with PyTorch's interpreter, with threads as PyTorch chooses them."""
    assert self.torch_python is not None
    env = {name: value for name, value in os.environ.items() if name != 'PYTHONPATH'}
    return self._start(self.torch_python, script, env | {'CUDA_VISIBLE_DEVICES': ''})

  def _start(self, python: str, script: str, env: dict[str, str]) -> Contestant:
    return Contestant(
      script, [python, str(HERE / script)], env, self.scratch / f'{script.removesuffix(".py")}.log'
    )


def our_environment(**changes: str) -> dict[str, str]:
  """The environment of processes that run byoljax: from this checkout, on the CPU.

  Compilation caches, the user's and our own, are left out: they would make a cold start warm.
  """
  cached = ('JAX_COMPILATION_CACHE', 'JAX_PERSISTENT_CACHE')
  env = {name: value for name, value in os.environ.items() if not name.startswith(cached)}
  path = os.pathsep.join(filter(None, [str(ROOT), env.get('PYTHONPATH', '')]))
  off = {'JAX_ENABLE_COMPILATION_CACHE': 'false'}
  return env | off | {'JAX_PLATFORMS': 'cpu', 'PYTHONPATH': path} | changes
