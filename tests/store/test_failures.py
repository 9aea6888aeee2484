"""What is said of an object store's errors; each is a real one of obstore's."""

import traceback

import pytest
from support.fault_proxy import Fault, every
from support.s3_server import KEY, SECRET

from recap_fast.store import persistence
from recap_fast.store.cloud import CloudStore

TEXTS = {
    "denied": (Fault("status", 403, "AccessDenied"), PermissionError, "access is denied, the server answered 403 "),
    "expired": (Fault("status", 400, "ExpiredToken"), PermissionError, "answered 400 Bad Request (ExpiredToken)"),
    "clock": (Fault("status", 403, "RequestTimeTooSkewed"), PermissionError, "set the clock of this machine"),
    "no bucket": (Fault("status", 404, "NoSuchBucket"), FileNotFoundError, "is not there: no such bucket"),
    "region": (Fault("status", 301, "PermanentRedirect"), OSError, "another region: set AWS_REGION"),
    "malformed": (Fault("status", 400, "AuthorizationHeaderMalformed"), OSError, "another region: set AWS_REGION"),
    "too large": (Fault("status", 400, "EntityTooLarge"), OSError, "answered 400 Bad Request (EntityTooLarge)"),
    "never": (Fault("status", 501, "NotImplemented"), OSError, "answered 501 Not Implemented (NotImplemented)"),
    "busy": (Fault("status", 503), ConnectionError, "answered 503 Service Unavailable (SlowDown)"),
    "reset": (Fault("reset"), ConnectionError, "Connection reset by peer"),
}


@pytest.mark.parametrize("case", TEXTS)
def test_what_does_not_pass_is_said_in_a_sentence(case, s3_bucket, s3_faults, monkeypatch, caplog):
    fault, kind, text = TEXTS[case]
    store = CloudStore(f"{s3_bucket}/out")
    monkeypatch.setattr(persistence, "PATIENCE_S", 0.0)
    s3_faults.schedule = every(fault)
    for action in (
        lambda: store.put("a.txt", b"one"),
        lambda: store.read("a.txt", 10),
        lambda: store.create("a.txt", b"one"),
        lambda: store.delete(["a.txt"]),
    ):
        with pytest.raises(kind) as caught:
            action()
        assert text in str(caught.value)
        assert str(caught.value).startswith(store.address)
        assert len(str(caught.value)) < 250
        said = "".join(traceback.format_exception(caught.value)) + caplog.text
        assert KEY not in said
        assert SECRET not in said
        assert "Debug source" not in said


def test_a_bucket_that_is_not_there(s3_bucket):
    store = CloudStore("s3://no-such-bucket-here/out")
    with pytest.raises(FileNotFoundError, match=r"s3://no-such-bucket-here/out is not there: no such bucket"):
        store.make_root()


def test_an_endpoint_where_nobody_answers(s3_bucket, monkeypatch):
    monkeypatch.setattr(persistence, "PATIENCE_S", 0.0)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    with pytest.raises(ConnectionError, match=r"connection to http://127\.0\.0\.1:1 failed: Connection refused"):
        CloudStore(s3_bucket).make_root()


@pytest.mark.parametrize("status", [403, 404])
def test_a_machine_without_credentials(status, s3_bucket, s3_faults, monkeypatch):
    """Here the server that gives an instance's credentials has none."""
    s3_faults.schedule = every(Fault("status", status))
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", s3_faults.endpoint)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    with pytest.raises(PermissionError, match="no credentials were found: set AWS_ACCESS_KEY_ID"):
        CloudStore(s3_bucket).make_root()
