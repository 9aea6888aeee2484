"""The stand-in of the Hub for the tests of exports."""

from collections.abc import Iterator
from typing import Any

import pytest


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A hub_fake.HubFake, to which huggingface_hub speaks without Xet, which it does not know, and with its token."""
    from huggingface_hub import constants
    from support.hub_fake import TOKEN, HubFake

    with HubFake() as fake:
        monkeypatch.setattr(constants, "ENDPOINT", fake.endpoint)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield fake
