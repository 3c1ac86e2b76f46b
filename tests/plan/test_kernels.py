"""Kernels of programs for GPUs: by hand, then those of the step that XLA compiles for an H100."""

import functools
import re

import pytest

from byoljax import config as config_lib
from byoljax.plan import aot, hardware, kernels
from tests.paths import ROOT

CUDA = pytest.mark.skipif(aot.cuda_version() is None, reason='no CUDA compiler is installed')
KERNEL = 'bf16[64,3,3,32]{3,2,1,0}'
HLO = f"""\
HloModule jit_step, \
input_output_alias={{ {{0}}: (0, {{}}, may-alias), {{1}}: (2, {{}}, must-alias) }}

%add (a: f32[], b: f32[]) -> f32[] {{
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum.1 = f32[] add(%a, %b)
}}

%summed (p0: bf16[8,4,4,64]) -> f32[64] {{
  %p0 = bf16[8,4,4,64]{{3,2,1,0}} parameter(0)
  %wide = f32[8,4,4,64]{{3,2,1,0}} convert(%p0)
  %zero = f32[] constant(0)
  ROOT %r = f32[64]{{0}} reduce(%wide, %zero), dimensions={{0,1,2}}, to_apply=%add
}}

%turned (p0: f32[3,3,32,64]) -> bf16[64,3,3,32] {{
  %p0 = f32[3,3,32,64]{{3,2,1,0}} parameter(0)
  %t = f32[64,3,3,32]{{3,2,1,0}} transpose(%p0), dimensions={{3,0,1,2}}
  ROOT %c = {KERNEL} convert(%t)
}}

%chosen (p0: u8[1000,192], p1: s32[8]) -> f32[8,192] {{
  %p0 = u8[1000,192]{{1,0}} parameter(0)
  %p1 = s32[8]{{0}} parameter(1)
  %rows = u8[8,192]{{1,0}} gather(%p0, %p1), offset_dims={{1}}
  ROOT %f = f32[8,192]{{1,0}} convert(%rows)
}}

%queued (p0: f32[4096,128], p1: f32[8,128], p2: s32[]) -> f32[4096,128] {{
  %p0 = f32[4096,128]{{1,0}} parameter(0)
  %p1 = f32[8,128]{{1,0}} parameter(1)
  %p2 = s32[] parameter(2)
  ROOT %u = f32[4096,128]{{1,0}} dynamic-update-slice(%p0, %p1, %p2, %p2)
}}

%multiplied (p0: f32[16,16], p1: f32[16,16]) -> f32[16,16] {{
  %p0 = f32[16,16]{{1,0}} parameter(0)
  %p1 = f32[16,16]{{1,0}} parameter(1)
  ROOT %d = f32[16,16]{{1,0}} dot(%p0, %p1), lhs_contracting_dims={{1}}, rhs_contracting_dims={{0}}
}}

%logged (x: f32[8]) -> f32[8] {{
  ROOT %copy.9 = f32[8]{{0}} copy(%x)
}}

%skipped (x: f32[8]) -> f32[8] {{
  ROOT %x.1 = f32[8]{{0}} parameter(0)
}}

%body (t: (s32[], /*index=1*/f32[8])) -> (s32[], f32[8]) {{
  %t = (s32[], f32[8]{{0}}) parameter(0)
  %x.2 = f32[8]{{0}} get-tuple-element(%t), index=1
  %s = f32[8]{{0}} all-reduce(%x.2), replica_groups={{{{0,1}}}}, to_apply=%add
  ROOT %o = (s32[], f32[8]) tuple(%x.2, %s)
}}

ENTRY %main (p: bf16[8,4,4,64], w: f32[3,3,32,64], x: bf16[8,8,8,32]) -> f32[64] {{
  %p = bf16[8,4,4,64]{{3,2,1,0}} parameter(0)
  %w = f32[3,3,32,64]{{3,2,1,0}} parameter(1)
  %x = bf16[8,8,8,32]{{3,2,1,0}} parameter(2)
  %data = u8[1000,192]{{1,0}} parameter(3)
  %at = s32[8]{{0}} parameter(4)
  %queue = f32[4096,128]{{1,0}} parameter(5)
  %new = f32[8,128]{{1,0}} parameter(6)
  %square = f32[16,16]{{1,0}} parameter(7)
  %k.1 = {KERNEL} fusion(%w), kind=kInput, calls=%turned, metadata={{op_name="jit(step)/conv"}}
  %cudnn-conv.7 = (bf16[8,8,8,64]{{3,2,1,0}}, u8[4096]{{0}}) custom-call(%x, %k.1), \
window={{size=3x3}}, dim_labels=b01f_o01i->b01f, custom_call_target="__cudnn$convForward"
  %y = bf16[8,8,8,64]{{3,2,1,0}} get-tuple-element(%cudnn-conv.7), index=0
  %input_reduce_fusion.2 = f32[64]{{0}} fusion(%p), kind=kInput, calls=%summed
  %views = f32[8,192]{{1,0}} fusion(%data, %at), kind=kLoop, calls=%chosen
  %later = f32[4096,128]{{1,0}} fusion(%queue, %new, %n), kind=kLoop, calls=%queued
  %product = f32[16,16]{{1,0}} fusion(%square, %square), kind=kCustom, calls=%multiplied
  %w.1 = (s32[], f32[8]{{0}}) while(%start), condition=%until, body=%body, \
backend_config={{"known_trip_count":{{"n":"3"}}}}
  %c.1 = f32[8]{{0}} conditional(%is, %l, %l), true_computation=%logged, false_computation=%skipped
  ROOT %out = f32[64]{{0}} copy(%input_reduce_fusion.2)
}}
"""


def test_kernels_by_hand():
  found = kernels.find(HLO)
  by_name = {each.name: each for each in found}
  conv = by_name['cudnn-conv']
  assert (conv.kind, conv.target) == ('convolution', '__cudnn$convForward')
  assert conv.layout == 'b01f_o01i->b01f' and conv.results == (('bf16', '8,8,8,64'),)
  assert (conv.read, conv.written) == (2 * (8 * 8 * 8 * 32 + 64 * 9 * 32), 2 * 8 * 8 * 8 * 64)
  assert by_name['k'].source == 'jit(step)/conv'
  # Rows of the images, and those that the queue gets: not all that there are.
  assert (by_name['views'].read, by_name['views'].written) == (8 * 192 + 32, 4 * 8 * 192)
  assert (by_name['later'].read, by_name['later'].written) == (2 * 4 * 8 * 128, 4 * 8 * 128)
  assert [each.name for each in found if each.conditional] == ['copy']
  totals = kernels.totals(found)
  assert {kind: count for kind, (count, _) in totals.items()} == {
    'convolution': 1, 'product': 1, 'reduction': 1, 'transpose': 1, 'copy': 1, 'collective': 3,
    'element-wise': 2,
  }  # fmt: skip
  assert totals['reduction'][1] == 2 * 8 * 16 * 64 + 4 * 64
  assert totals['collective'][1] == 3 * 2 * 32
  computing, others = kernels.accessed(totals)
  assert computing == conv.read + conv.written + 3 * 4 * 256
  all_but_sent = sum(size for kind, (_, size) in totals.items() if kind != 'collective')
  assert computing + others == all_but_sent
  assert kernels.donated(HLO) == 2


@functools.cache
def _step(dtype):
  config = config_lib.load(f'{ROOT}/configs/byol.py:cifar10', [('encoder.dtype', dtype)])
  mesh = aot.mesh_of(aot.devices_of(hardware.parse('h100:1x1')))
  run = aot.assembled(config, aot.described_source(config), mesh)
  return run, aot.compile_step(run, mesh).hlo


@CUDA
@pytest.mark.slow
@pytest.mark.parametrize('dtype', ['bfloat16', 'float32'])
def test_the_step_of_byol_for_an_h100(dtype):
  """A ResNet-18 has 20 convolutions. Counts of XLA's own kernels are those of JAX 0.10.2."""
  _, hlo = _step(dtype)
  found = [each for each in kernels.find(hlo) if not each.conditional]
  convolutions = [each for each in found if each.kind == 'convolution']
  passes = [re.search(r'conv(\w+)', each.target).group(1) for each in convolutions]
  # Two views forward through both networks, and backward through one; nobody asks for the
  # gradient of the views.
  assert {name: passes.count(name) for name in passes} == {
    'Forward': 80, 'BackwardFilter': 40, 'BackwardInput': 38,
  }  # fmt: skip
  # All of them have the channels last, which the tensor cores need, and the compute type.
  assert {each.layout for each in convolutions} == {'b01f_o01i->b01f'}
  short = {'bfloat16': 'bf16', 'float32': 'f32'}[dtype]
  assert {each.results[0][0] for each in convolutions} == {short}
  # No map is turned around: what is transposed are kernels.
  turned = [each for each in found if each.kind == 'transpose']
  assert max(each.written for each in turned) <= 4 * 3 * 9 * 512 * 512
  assert len(turned) <= 100
  # The largest maps, of 64 channels, are stored in the compute type alone.
  if dtype == 'bfloat16':
    stored = {shape for each in found for shape in each.results if shape[1] == '256,32,32,64'}
    assert stored == {('bf16', '256,32,32,64')}
  assert sum(each.times for each in found) <= 1_100


@CUDA
@pytest.mark.slow
def test_the_state_is_overwritten():
  import jax

  run, hlo = _step('bfloat16')
  assert kernels.donated(hlo) == len(jax.tree.leaves(jax.eval_shape(run.create)))
