"""Hugging Face's hub: encoders by the name 'hf:owner/name', and folders that are pushed there.

Nothing here is reached unless such a name was given. Of a repository only `model.safetensors`,
`config.json` and the model card are fetched, into the hub's own cache; a file that could execute
code is neither fetched nor read. The package `huggingface_hub` is imported when it is needed; what
it would report about itself is switched off.
"""

import os
import pathlib
import re
from typing import Any

from byoljax.config import ConfigError
from byoljax.weights import exported, files

PREFIX = 'hf:'
FETCHED = (files.SAFETENSORS, exported.ABOUT, 'README.md', 'model_card.json')
_NAME = re.compile(r'[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*')


def fetch(name: str) -> pathlib.Path:
  """The folder of an encoder on the hub, fetched unless it is there already.

  Args:
    name: 'hf:owner/name', or 'hf:owner/name@revision' for a branch, a tag or a commit.

  Raises:
    ConfigError: the extra is not installed, no such name, or the hub does not answer.
  """
  repository, _, revision = name.removeprefix(PREFIX).partition('@')
  check_name(repository)
  hub = _imported()
  try:
    folder = hub.snapshot_download(
      repo_id=repository, revision=revision or None, allow_patterns=list(FETCHED)
    )
  except Exception as error:  # Of the hub, of the connection, of the disk.
    raise ConfigError(f"'{name}' could not be fetched: {_sentence(error)}") from error
  if not exported.is_one(pathlib.Path(folder)):
    raise ConfigError(
      f"'{name}' has no {files.SAFETENSORS} with a {exported.ABOUT}: byoljax push writes both."
    )
  return pathlib.Path(folder)


def client() -> Any:
  """The hub, for somebody who is known there.

  Raises:
    ConfigError: the extra is not installed, nobody is logged in, or the hub does not answer.
  """
  api = _imported().HfApi()
  try:
    api.whoami()
  except Exception as error:
    raise ConfigError(
      f"the hub does not know you: {_sentence(error)} Log in with 'hf auth login', or set HF_TOKEN."
    ) from error
  return api


def push(api: Any, folder: pathlib.Path, repository: str, *, private: bool, message: str) -> str:
  """Uploads a folder as a model's repository, made if need be; returns its address.

  Args:
    api: of `client`.
    folder: as `exporting.write` wrote it.
    repository: 'owner/name'.
    private: whether a new repository is for its owner alone.
    message: of the commit.

  Raises:
    ConfigError: the hub does not take it.
  """
  try:
    url = api.create_repo(repo_id=repository, private=private, exist_ok=True)
    api.upload_folder(repo_id=repository, folder_path=str(folder), commit_message=message)
  except Exception as error:
    raise ConfigError(f"'{repository}' was not pushed: {_sentence(error)}") from error
  return str(url)


def check_name(repository: str) -> None:
  """Raises ConfigError unless this is 'owner/name'."""
  if not _NAME.fullmatch(repository):
    raise ConfigError(
      f"'{repository}' is no repository of the hub: write owner/name, such as me/byol-photos."
    )


def _imported() -> Any:
  os.environ.setdefault('HF_HUB_DISABLE_TELEMETRY', '1')
  try:
    import huggingface_hub  # pyright: ignore[reportMissingImports]
  except ImportError as error:
    raise ConfigError(
      "the hub needs a package that is not installed: pip install 'byoljax[hub]'."
    ) from error
  return huggingface_hub


def _sentence(error: Exception) -> str:
  lines = [line.strip() for line in str(error).splitlines() if line.strip()]
  return (lines[0] if lines else type(error).__name__)[:300].rstrip('.') + '.'
