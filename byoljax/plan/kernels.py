"""Counts the kernels that a program compiled for a GPU launches, and the memory that they touch.

Read from the text of the compiled program, where XLA has fused, laid out and ordered everything: an
instruction is a kernel, or two where a reduction is finished by a second one. XLA reports no bytes
for GPUs, so they are counted here: every kernel reads its operands once and writes its results
once, in the memory of the device, and of an operand of which it takes rows only those. Caches make
it less, and convolutions that need workspace or read twice make it more.
"""

import collections
import re
from typing import NamedTuple

from byoljax.plan import program, traffic

# In the order of a report.
KINDS = (
  'convolution', 'product', 'attention', 'reduction', 'transpose', 'copy', 'collective', 'other',
  'element-wise',
)  # fmt: skip
_INSTRUCTION = re.compile(r'^\s+(?:ROOT )?%?([\w.\-]+) = (\(.*?\)|\S+) ([\w\-]+)\((.*)$')
_NAME = re.compile(r'%([\w.\-]+)')
_TARGET = re.compile(r'custom_call_target="([^"]*)"')
_SOURCE = re.compile(r'op_name="([^"]*)"')
# Nothing runs for these.
_FREE = frozenset(
  ('parameter', 'constant', 'tuple', 'get-tuple-element', 'bitcast', 'while', 'conditional', 'call',
   'after-all', 'partition-id', 'replica-id', 'opt-barrier')
)  # fmt: skip
_WORKSPACE = ('s8', 'u8')  # Of libraries' functions, which put it beside their results.
_ROWS_OF = ('dynamic-slice', 'gather', 'dynamic-update-slice', 'scatter')
_ALIASES = re.compile(r'\{[\d, ]*\}: \((\d+), \{')


class Kernel(NamedTuple):
  """A kernel of the program.

  Attributes:
    name: XLA's, without its number.
    kind: one of `KINDS`.
    source: the operation that it was made of, as JAX names it; '' if unknown.
    results: (type, dimensions) of each, such as ('bf16', '256,32,32,64').
    target: the library's function, '' for XLA's own kernels.
    layout: of a convolution, 'b01f_o01i->b01f' for images with the channels last.
    read: bytes of its operands.
    written: bytes of its results.
    times: how often it runs in one execution of the program.
    conditional: whether it is inside a branch of a conditional.
  """

  name: str
  kind: str
  source: str
  results: tuple[tuple[str, str], ...]
  target: str
  layout: str
  read: int
  written: int
  times: int = 1
  conditional: bool = False


def find(hlo: str) -> tuple[Kernel, ...]:
  """The kernels of a compiled HLO module, in the order of its text."""
  computations, entry = program.computations(hlo)
  found = []
  for name, times, conditional, _ in program.walk(computations, entry):
    sizes: dict[str, int] = {}
    for line in computations[name]:
      match = _INSTRUCTION.match(line)
      if match is None:
        continue
      label, results, operation, rest = match.groups()
      shapes = tuple(program.SHAPE.findall(results))
      sizes[label] = sum(program.size(*shape) for shape in shapes)
      if operation in _FREE or operation.endswith('-done'):
        continue
      kernel = _kernel(label, shapes, operation, rest, sizes, computations)
      found.append(kernel._replace(times=times, conditional=conditional))
  return tuple(found)


def totals(found: tuple[Kernel, ...]) -> dict[str, tuple[int, int]]:
  """Kind -> (kernels, bytes read and written) per execution, outside of conditionals."""
  result: dict[str, tuple[int, int]] = collections.defaultdict(lambda: (0, 0))
  for each in found:
    if not each.conditional:
      count, touched = result[each.kind]
      size = each.times * (each.read + each.written)
      result[each.kind] = (count + each.times, touched + size)
  return {kind: result[kind] for kind in KINDS if kind in result}


def accessed(found: dict[str, tuple[int, int]]) -> tuple[float, float]:
  """Bytes that convolutions and products touch, and all other kernels, of `totals`.

  Without collectives, whose time is that of their transfer.
  """
  sizes = {kind: size for kind, (_, size) in found.items() if kind != 'collective'}
  computing = sum(sizes.get(kind, 0) for kind in ('convolution', 'product', 'attention'))
  return float(computing), float(sum(sizes.values()) - computing)


def donated(hlo: str) -> int:
  """How many of a program's arguments it overwrites with results."""
  head = hlo.partition('\n')[0]
  return len({int(number) for number in _ALIASES.findall(head)})


def _kernel(
  label: str,
  shapes: tuple[tuple[str, str], ...],
  operation: str,
  rest: str,
  sizes: dict[str, int],
  computations: dict[str, list[str]],
) -> Kernel:
  operands = _NAME.findall(rest.partition(')')[0])
  called = re.search(r'calls=%?([\w.\-]+)', rest)
  inside = computations.get(called.group(1), []) if called and operation == 'fusion' else []
  target = _TARGET.search(rest)
  library = target.group(1) if target else ''
  source, layout = _SOURCE.search(rest), re.search(r'dim_labels=(\S+?),', rest)
  if library:
    shapes = tuple(shape for shape in shapes if shape[0] not in _WORKSPACE)
  written = sum(program.size(*shape) for shape in shapes)
  read = sum(sizes.get(name, 0) for name in operands)
  if inside:
    read, written = _touched([sizes.get(name, 0) for name in operands], written, inside)
  return Kernel(
    re.sub(r'[.\d]+$', '', label),
    _kind(operation, rest, library, inside),
    source.group(1) if source else '',
    shapes,
    library,
    layout.group(1) if layout else '',
    read,
    written,
  )


def _kind(operation: str, rest: str, library: str, inside: list[str]) -> str:
  if library:
    for part, kind in (('conv', 'convolution'), ('fmha', 'attention'), ('cublas', 'product'),
                       ('gemm', 'product'), ('matmul', 'product')):  # fmt: skip
      if part in library.lower():
        return kind
    return 'other'
  if any(operation.removesuffix('-start') == kind for kind in traffic.KINDS):
    return 'collective'
  text = '\n'.join(inside) if inside else f' {operation}('
  if ' convolution(' in text:
    return 'convolution'
  if ' dot(' in text:
    return 'product'
  by_element = inside and 'kind=kLoop' in rest  # Each thread computes one result by itself.
  for part, kind in ((' reduce(', 'reduction'), (' transpose(', 'transpose')):
    if part in text and not by_element:
      return kind
  if operation in ('copy', 'copy-start'):
    return 'copy'
  return 'element-wise' if inside or operation in ('convert', 'broadcast', 'add') else 'other'


def _touched(operands: list[int], written: int, inside: list[str]) -> tuple[int, int]:
  """Bytes that a fusion reads and writes, of what it takes rows of or changes rows in only those.

  Args:
    operands: bytes of each.
    written: bytes of the results.
    inside: the instructions of the fusion.
  """
  sizes: dict[str, int] = {}
  numbers: dict[str, int] = {}
  users: dict[str, list[tuple[str, list[str], int]]] = collections.defaultdict(list)
  for line in inside:
    match = _INSTRUCTION.match(line)
    if match is None:
      continue
    label, results, operation, rest = match.groups()
    sizes[label] = sum(program.size(*shape) for shape in program.SHAPE.findall(results))
    if operation == 'parameter':
      numbers[label] = int(rest.partition(')')[0])
    named = _NAME.findall(rest.partition(')')[0])
    for name in named:
      users[name].append((operation, named, sizes[label]))
  read = 0
  for label, number in numbers.items():
    whole, rows = operands[number] if number < len(operands) else 0, 0
    for operation, named, result in users[label]:
      if operation not in _ROWS_OF or named[0] != label:
        rows = whole
        break
      changed = operation in ('dynamic-update-slice', 'scatter')
      size = sizes.get(named[-1 if operation == 'scatter' else 1], 0) if changed else result
      if changed:
        written -= max(0, result - size)  # The others stay where they are.
      rows += size
    read += min(whole, rows)
  return read, max(0, written)
