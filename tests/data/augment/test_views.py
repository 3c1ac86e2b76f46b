import pytest

from byoljax.data.augment import views
from byoljax.suggest import from_fields


@pytest.mark.parametrize(
  ('field', 'value'),
  [
    ('size', 7),
    ('size', 32.0),
    ('crop_scale', (0.5, 0.1)),
    ('crop_scale', (0.0, 1.0)),
    ('crop_scale', (0.1, 1.5)),
    ('crop_scale', 0.5),
    ('crop_ratio', (0.75,)),
    ('crop_ratio', (-1.0, 1.0)),
    ('flip_prob', 1.5),
    ('jitter_prob', -0.1),
    ('gray_prob', '0.2'),
    ('brightness', 1.1),
    ('hue', 0.6),
    ('blur_sigma', (0.0, 2.0)),
    ('solarize_threshold', float('nan')),
  ],
)
def test_bad_settings_are_refused_in_one_sentence(field, value):
  with pytest.raises(ValueError, match=rf'^{field} is .*\.$'):
    from_fields(views.ViewSpec, 'view field', {field: value})


def test_settings_from_a_config():
  spec = from_fields(views.ViewSpec, 'view field', {'size': 64, 'crop_scale': [0.2, 1], 'hue': 0})
  assert spec.crop_scale == (0.2, 1.0)
  assert hash(spec) == hash(views.ViewSpec(size=64, crop_scale=(0.2, 1.0), hue=0))
  with pytest.raises(ValueError, match="unknown view field 'gray_probability'.*did you mean 'gray"):
    from_fields(views.ViewSpec, 'view field', {'gray_probability': 0.2})


def test_views_of_a_configuration():
  """In the order of their numbers, repeated, and with the geometry of another by its name."""
  settings = {
    'view10': {'size': 12, 'geometry_of': 'view2'},
    'view1': {'size': 8, 'repeat': 2},
    'view2': {'size': 10},
  }
  found = views.specs_of(settings)
  assert [spec.size for spec in found] == [8, 8, 10, 12]
  assert [spec.geometry_of for spec in found] == [None, None, None, 2]
  for wrong, message in (
    ({'view1': {'geometry_of': 'view3'}}, "geometry_of is 'view3', but the views are view1"),
    ({'view1': {'repeat': 0}}, 'view1.repeat=0'),
    ({}, 'there is no view'),
  ):
    with pytest.raises(ValueError, match=message):
      views.specs_of(wrong)
