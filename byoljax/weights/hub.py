"""Encoders on Hugging Face's hub by the name 'hf:owner/name', and folders that are pushed there.

Of a repository only `model.safetensors`, `config.json` and the model card are fetched; a file that
could execute code is neither fetched nor read. `byoljax.hub` has the rules for reaching the hub.
"""

import pathlib
from typing import Any

from byoljax import hub
from byoljax.config import ConfigError, user_errors
from byoljax.weights import exported, files

PREFIX = hub.PREFIX
FETCHED = (files.SAFETENSORS, exported.ABOUT, 'README.md', 'model_card.json')


def fetch(name: str) -> pathlib.Path:
  """The folder of an encoder on the hub, fetched unless it is there already.

  Args:
    name: 'hf:owner/name', or 'hf:owner/name@revision' for a branch, a tag or a commit.

  Raises:
    ConfigError: the extra is not installed, no such name, or the hub does not answer.
  """
  repository, _, revision = name.removeprefix(PREFIX).partition('@')
  with user_errors():
    folder = pathlib.Path(hub.fetch(name, repository, FETCHED, revision=revision))
  if not exported.is_one(folder):
    raise ConfigError(
      f"'{name}' has no {files.SAFETENSORS} with a {exported.ABOUT}: byoljax push writes both."
    )
  return folder


def client() -> Any:
  """The hub, for somebody who is known there.

  Raises:
    ConfigError: the extra is not installed, nobody is logged in, or the hub does not answer.
  """
  with user_errors():
    api = hub.imported().HfApi()
  try:
    api.whoami()
  except Exception as error:
    raise ConfigError(
      f"the hub does not know you: {hub.sentence(error)} Log in with 'hf auth login', or set "
      'HF_TOKEN.'
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
    raise ConfigError(f"'{repository}' was not pushed: {hub.sentence(error)}") from error
  return str(url)


def check_name(repository: str) -> None:
  """Raises ConfigError unless this is 'owner/name'."""
  with user_errors():
    hub.check_name(repository)
