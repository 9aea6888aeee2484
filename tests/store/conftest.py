"""What the tests of stores share."""

from datetime import timedelta

import pytest

from recap_fast.store import connection, persistence


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    """Between two tries of ours, and hardly between two of obstore's."""
    monkeypatch.setattr(persistence, "FIRST_PAUSE_S", 0.0)
    monkeypatch.setitem(connection.RETRIES, "backoff", {"init_backoff": timedelta(milliseconds=1)})
