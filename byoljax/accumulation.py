"""A batch in micro-batches, one after the other: less memory, one optimizer step.

Gradients and metrics are averaged, rows for queues and banks written in order. Where a method
compares images, the outputs of all micro-batches are compared, not those of each.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from byoljax.devices import mapping
from byoljax.method import COTANGENTS, Aux, Batch, Method

PyTree = Any
Metrics = dict[str, jax.Array]
# (method state, micro-batch, its number) -> (gradients, Aux).
Gradients = Callable[[PyTree, Batch, int | jax.Array], tuple[PyTree, Aux]]


def accumulated(
  gradients: Gradients, method_state: PyTree, batch: Batch, parts: int
) -> tuple[PyTree, Aux]:
  """Averages gradients and metrics over micro-batches, threading the method state through them.

  Micro-batch i holds the examples whose position is i modulo `parts`. Strided like this its global
  content, and with it every batch statistic, does not depend on the number of devices.
  """

  def one(carry: PyTree, number: jax.Array) -> tuple[PyTree, Any]:
    state, total = carry
    place = number
    if mapping.must_unroll():
      # Never true, but without a loop nothing else makes a part wait for the one before: the
      # compiler would hold the activations of all of them. It removes barriers before that.
      place += (optax.tree.norm(total) > jnp.inf).astype(number.dtype)
    micro_batch = jax.tree.map(lambda x: x[place], micro)
    grads, aux = gradients(state, micro_batch, number)
    total = jax.tree.map(jnp.add, total, grads)
    return (aux.method_state, total), (aux.metrics, aux.embedding, aux.rows)

  micro = _micro_batches(batch, parts)
  shapes = jax.eval_shape(gradients, method_state, jax.tree.map(lambda x: x[0], micro), 0)[0]
  nothing = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
  (method_state, total), (metrics, embedding, rows) = jax.lax.scan(
    one, (method_state, nothing), jnp.arange(parts), unroll=mapping.must_unroll()
  )
  grads = jax.tree.map(lambda x: x / parts, total)
  metrics = jax.tree.map(lambda x: x.mean(0), metrics)
  return grads, Aux(method_state, metrics, embedding.reshape(-1, embedding.shape[-1]), rows)


def compared(
  outputs: Callable[[Batch, jax.Array], PyTree],
  compare: Callable[[PyTree], tuple[jax.Array, Metrics]],
  gradients: Gradients,
  method_state: PyTree,
  batch: Batch,
  parts: int,
) -> tuple[PyTree, Aux]:
  """`accumulated` of a loss that compares the images of the whole batch, exactly.

  All micro-batches go forward once for their outputs, which are compared, and once more with the
  gradient with respect to them: one forward pass more, and no activations of more than one of them.
  """
  micro = _micro_batches(batch, parts)

  def one(number: jax.Array) -> PyTree:
    return outputs(jax.tree.map(lambda x: x[number], micro), number)

  if mapping.must_unroll():
    made = [one(jnp.asarray(number, jnp.int32)) for number in range(parts)]
    found = jax.tree.map(lambda *x: jnp.stack(x), *made)
  else:
    found = jax.lax.map(one, jnp.arange(parts))
  whole = jax.tree.map(
    lambda x: jnp.moveaxis(x, 0, 1).reshape(-1, *x.shape[2:]), jax.lax.stop_gradient(found)
  )
  (_, metrics), cotangents = jax.value_and_grad(compare, has_aux=True)(whole)
  # Gradients of micro-batches are averaged, and these are to be added.
  given = {COTANGENTS: jax.tree.map(lambda g: parts * g, cotangents)}
  grads, aux = accumulated(gradients, method_state, batch | given, parts)
  inner = sum(jax.tree.leaves(jax.tree.map(lambda x, g: jnp.sum(x * g), whole, cotangents)))
  # What is shown as the loss has the inner product in the place of what it stands for.
  shown = aux.metrics['loss'] - inner + metrics['loss']
  return grads, aux._replace(metrics=aux.metrics | metrics | {'loss': shown})


def _micro_batches(batch: Batch, parts: int) -> Batch:
  """[b, ...] -> [parts, b / parts, ...], by position modulo `parts`."""

  def split(x: jax.Array) -> jax.Array:
    return jnp.moveaxis(x.reshape(x.shape[0] // parts, parts, *x.shape[1:]), 1, 0)

  return jax.tree.map(split, batch)


def remember(
  method: Method, method_state: PyTree, rows: PyTree, finite: jax.Array, parts: int
) -> PyTree:
  """The method state after the rows of all micro-batches were written, in their order."""
  if parts == 1:
    return method.remember(method_state, rows, finite)

  def one(method_state: PyTree, rows: PyTree) -> tuple[PyTree, None]:
    return method.remember(method_state, rows, finite), None

  return jax.lax.scan(one, method_state, rows, length=parts)[0]
