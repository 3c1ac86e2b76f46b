"""Hugging Face's hub: the names 'hf:owner/name', and folders that are fetched from there.

Nothing is reached unless such a name was given. What is fetched goes into the hub's own cache, and
is taken from there without a network. The package `huggingface_hub` is imported when it is needed;
what it would report about itself is switched off.
"""

from collections.abc import Sequence
import os
import re
from typing import Any

PREFIX = 'hf:'
_NAME = re.compile(r'[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*')


def fetch(
  name: str, repository: str, patterns: Sequence[str], *, revision: str = '', **options: Any
) -> str:
  """The folder of a repository, of which the files are fetched that are not there already.

  Args:
    name: what the user called it.
    repository: 'owner/name'.
    patterns: of the paths of the wanted files, as of `fnmatch`.
    revision: a branch, a tag or a commit; '' for the latest.
    **options: of `huggingface_hub.snapshot_download`.

  Raises:
    ValueError: the extra is not installed, no such name, or the hub does not answer.
  """
  check_name(repository)
  package = imported()
  try:
    return package.snapshot_download(
      repo_id=repository, revision=revision or None, allow_patterns=list(patterns), **options
    )
  except Exception as error:  # Of the hub, of the connection, of the disk.
    raise ValueError(f"'{name}' could not be fetched: {sentence(error)}") from error


def check_name(repository: str) -> None:
  """Raises ValueError unless this is 'owner/name'."""
  if not _NAME.fullmatch(repository):
    raise ValueError(
      f"'{repository}' is no repository of the hub: write owner/name, such as me/byol-photos."
    )


def imported() -> Any:
  """The package `huggingface_hub`; ValueError where it is missing."""
  os.environ.setdefault('HF_HUB_DISABLE_TELEMETRY', '1')
  try:
    import huggingface_hub  # pyright: ignore[reportMissingImports]
  except ImportError as error:
    raise ValueError(
      "the hub needs a package that is not installed: pip install 'byoljax[hub]'."
    ) from error
  return huggingface_hub


def sentence(error: Exception) -> str:
  """The first line of an error's message."""
  lines = [line.strip() for line in str(error).splitlines() if line.strip()]
  return (lines[0] if lines else type(error).__name__)[:300].rstrip('.') + '.'
