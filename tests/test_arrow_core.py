"""recap_fast/arrow_core.py: the core loads only beside the pyarrow that it is built for."""

import pyarrow as pa
import pytest

from recap_fast.arrow_core import check_arrow, core


def test_another_major_version_of_pyarrow_is_refused():
    check_arrow("26.0.1", "26.3.0")
    with pytest.raises(ImportError, match=r"built with pyarrow 26\.0\.1, but pyarrow 27\.0\.0 is installed: install"):
        check_arrow("26.0.1", "27.0.0")


def test_the_core_names_the_version_it_is_linked_to():
    assert core.ARROW_VERSION.split(".")[0] == pa.__version__.split(".")[0]
