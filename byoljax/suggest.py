"""Messages about unknown names: what is valid, and what a misspelled one was meant to be."""

from collections.abc import Iterable
import difflib


def unknown(kind: str, name: object, valid: Iterable[str]) -> str:
  """The message for a name that is not in a table.

  Examples:
    >>> unknown('optimizer', 'lar', ['lars', 'sgd'])
    "unknown optimizer 'lar': choose one of lars, sgd; did you mean 'lars'?"
  """
  names = list(valid)
  return f"unknown {kind} '{name}': choose one of {', '.join(names)}{did_you_mean(name, names)}"


def did_you_mean(name: object, valid: Iterable[str], count: int = 1) -> str:
  """The end of a message, "; did you mean 'x'?"; empty where no valid name is close."""
  near = "' or '".join(closest(name, valid, count))
  return f"; did you mean '{near}'?" if near else ''


def closest(name: object, valid: Iterable[str], count: int = 1) -> list[str]:
  """At most `count` of the valid names that are spelled like `name`, the closest first."""
  return difflib.get_close_matches(str(name), list(valid), n=count)
