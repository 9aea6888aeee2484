"""Shapes of benchmarks are those that build-engine reads from the configs that are made of them."""

import pytest

from inputs.checkpoints import make_config
from inputs.shapes import SHAPES
from recap_fast.build.architecture import read_architecture


@pytest.mark.parametrize("size", SHAPES)
def test_a_config_is_read_as_the_shape_that_it_was_made_of(size, tmp_path):
    make_config(SHAPES[size], 5).save_pretrained(tmp_path)
    found = read_architecture(tmp_path)
    assert (found.vision, found.text) == (SHAPES[size].vision, SHAPES[size].text)
