"""TensorFlow and TFDS, imported late and without a word.

TensorFlow costs 6-20 s and 0.6 GB to import, so nothing imports it until an image file has to be
decoded; arrays never need it. Its start-up messages come from C++ and ignore every Python logger,
and the variable that silences oneDNN's also switches oneDNN off (measured: 3.7 times slower), so
file descriptor 2 is redirected for the time of the import. TF_CPP_MIN_LOG_LEVEL=0 asks for the
messages and gets them (other values do not: importing JAX sets it to 1). The accelerators are
hidden from TensorFlow: it would otherwise reserve the memory that JAX needs.
"""

from collections.abc import Iterator
import contextlib
import functools
import logging
import os
import sys
from typing import Any

_LEVEL = 'TF_CPP_MIN_LOG_LEVEL'
_MISSING = (
  '{what} is needed to read TFDS data sets and image folders but is not installed: install '
  "'{package}', or use arrays (config.data.name = 'npz'), which need neither."
)


@contextlib.contextmanager
def _silent(quiet: bool) -> Iterator[None]:
  """Sends what anything in the process writes to file descriptor 2 nowhere."""
  if not quiet:
    yield
    return
  sys.stderr.flush()
  saved, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
  os.dup2(null, 2)
  try:
    yield
  finally:
    sys.stderr.flush()
    os.dup2(saved, 2)
    os.close(saved)
    os.close(null)


@functools.cache
def _quiet() -> bool:
  """Whether to silence TensorFlow: decided once, before the variable is set here."""
  if os.environ.get(_LEVEL) == '0':
    return False
  os.environ[_LEVEL] = '3'
  # TFDS reports its own deprecations through absl's logger; TensorFlow counts how often functions
  # of one name are traced, and every set of views has its own.
  for name in ('absl', 'tensorflow'):
    logging.getLogger(name).setLevel(logging.ERROR)
  return True


@functools.cache
def tensorflow() -> Any:
  """The `tensorflow` module, without accelerators and without start-up messages.

  Raises:
    ValueError: TensorFlow is not installed.
  """
  with _silent(_quiet()):
    try:
      import tensorflow as tf
    except ModuleNotFoundError as error:
      raise ValueError(_MISSING.format(what='TensorFlow', package='tensorflow-cpu')) from error
    # Too late when the caller has used TensorFlow already: then that choice is the caller's.
    with contextlib.suppress(RuntimeError):
      tf.config.set_visible_devices([], 'GPU')
      tf.config.set_visible_devices([], 'TPU')
    tf.zeros(())  # The first operation starts the runtime, which prints as well.
  return tf


@functools.cache
def tensorflow_datasets() -> Any:
  """The `tensorflow_datasets` module, without messages.

  Raises:
    ValueError: TensorFlow Datasets is not installed.
  """
  tensorflow()
  with _silent(_quiet()):
    try:
      import tensorflow_datasets as tfds
    except ModuleNotFoundError as error:
      raise ValueError(_MISSING.format(what='TFDS', package='tensorflow-datasets')) from error
  return tfds
