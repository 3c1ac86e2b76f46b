"""Checks of names: what is valid, and what a misspelled one was meant to be."""

from collections.abc import Iterable, Mapping
import dataclasses
import difflib
from typing import Any, TypeVar

T = TypeVar('T')


def unknown(kind: str, name: object, valid: Iterable[str]) -> str:
  """The message for a name that is not in a table.

  Examples:
    >>> unknown('optimizer', 'lar', ['lars', 'sgd'])
    "unknown optimizer 'lar': choose one of lars, sgd; did you mean 'lars'?"
  """
  names = list(valid)
  return f"unknown {kind} '{name}': choose one of {', '.join(names)}{did_you_mean(name, names)}"


def check_name(kind: str, name: object, valid: Any) -> None:
  """Raises ValueError for a name that is not valid; it lists those that are, and the closest."""
  if name not in valid:
    raise ValueError(unknown(kind, name, valid))


def from_fields(cls: type[T], kind: str, fields: Mapping[str, Any]) -> T:
  """A dataclass from any subset of its fields, as a configuration has them.

  Args:
    cls: the dataclass.
    kind: what its fields are called in messages.
    fields: values by name.

  Raises:
    ValueError: an unknown name, or what the class itself refuses.
  """
  valid = [field.name for field in dataclasses.fields(cls)]  # type: ignore[arg-type]
  for name in fields:
    check_name(kind, name, valid)
  return cls(**{str(name): value for name, value in fields.items()})


def did_you_mean(name: object, valid: Iterable[str], count: int = 1) -> str:
  """The end of a message, "; did you mean 'x'?"; empty where no valid name is close."""
  near = "' or '".join(closest(name, valid, count))
  return f"; did you mean '{near}'?" if near else ''


def closest(name: object, valid: Iterable[str], count: int = 1) -> list[str]:
  """At most `count` of the valid names that are spelled like `name`, the closest first."""
  return difflib.get_close_matches(str(name), list(valid), n=count)
