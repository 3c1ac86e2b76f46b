"""Which of its networks a student names as a classifier."""

import pytest

from byoljax.length import Length
from byoljax.method import Setting
from byoljax.methods.supervised import distillation
from tests.methods import test_contract as contract


@pytest.mark.parametrize(
  ('classes', 'named'), [(contract.CLASSES, 'online'), (contract.CLASSES + 1, '')]
)
def test_it_classifies_where_the_teacher_has_the_classes_of_the_data(classes, named):
  teacher = contract._teacher()
  setting = Setting(Length(8, 2, 4), num_classes=classes, given={'teacher': teacher})
  assert distillation.build(contract.TinyEncoder, setting).classifies == named
