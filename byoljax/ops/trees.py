"""Subtrees by their path: the names of attributes and keys, from the top."""

from collections.abc import Mapping, Sequence
from typing import Any

PyTree = Any


def at(tree: PyTree, path: Sequence[str]) -> PyTree:
  """The subtree at a path; None where there is no such path."""
  for name in path:
    tree = tree.get(name) if isinstance(tree, Mapping) else getattr(tree, name, None)
    if tree is None:
      return None
  return tree


def replaced(tree: PyTree, path: Sequence[str], value: PyTree) -> PyTree:
  """The tree with another value at a path that it has; the given tree stays as it is."""
  if not path:
    return value
  first, *rest = path
  if isinstance(tree, Mapping):
    return {**tree, first: replaced(tree[first], rest, value)}
  return tree.replace(**{first: replaced(getattr(tree, first), rest, value)})


def names(path: Sequence[Any]) -> tuple[str, ...]:
  """A path as `jax.tree_util` hands it out, by names; what a list holds, by its number."""
  kinds = ('name', 'key', 'idx')
  return tuple(
    next((str(getattr(key, kind)) for kind in kinds if hasattr(key, kind)), '') for key in path
  )
