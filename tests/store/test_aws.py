"""Where the credentials, the region and the endpoint of S3 come from."""

import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from support.guard import GUARD_S

from recap_fast.errors import ConfigError
from recap_fast.store import aws
from recap_fast.store.cloud import CloudStore
from recap_fast.store.connection import connect

KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
PROFILE = "aws_access_key_id = file-key\naws_secret_access_key = hidden\n"


@pytest.fixture
def files(s3_bucket, tmp_path, monkeypatch):
    """Writes ~/.aws/config and ~/.aws/credentials; there are no keys in the environment, and no region or endpoint."""
    for name in (*KEYS, "AWS_REGION", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name)
    monkeypatch.setattr(aws, "_REGION_URL", "http://127.0.0.1:1/{bucket}")

    def write(credentials="", config=""):
        (tmp_path / "aws-credentials").write_text(credentials)
        (tmp_path / "aws-config").write_text(config)

    return write


def config_of(url="s3://bucket/x"):
    return connect(url)[0].config


def test_the_environment(s3_bucket, s3_server):
    config = config_of()
    assert (config["endpoint"], config["region"]) == (s3_server.endpoint, "us-east-1")
    assert connect("s3://bucket/x")[0].client_options["allow_http"] == "true"


@pytest.mark.parametrize(
    ("variables", "endpoint"),
    [
        ({"AWS_ENDPOINT_URL": "https://one"}, "https://one"),
        ({"AWS_ENDPOINT_URL": "https://one", "AWS_ENDPOINT_URL_S3": "https://two"}, "https://two"),
        ({"AWS_ENDPOINT": "http://three:9000"}, "http://three:9000"),
    ],
)
def test_endpoints(variables, endpoint, files, monkeypatch):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    bucket = connect("s3://bucket/x")[0]
    assert bucket.config["endpoint"] == endpoint
    assert bucket.client_options["allow_http"] == str(endpoint.startswith("http://")).lower()


def test_an_endpoint_without_a_scheme(s3_bucket, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "minio:9000")
    with pytest.raises(ConfigError, match=r"endpoint is 'minio:9000': write it with its scheme, https://minio:9000"):
        connect("s3://bucket/x")


@pytest.mark.parametrize("name", ["AWS_REGION", "AWS_DEFAULT_REGION"])
def test_regions(name, files, monkeypatch):
    files(config="[default]\nregion = eu-west-3\n")
    assert config_of()["region"] == "eu-west-3"
    monkeypatch.setenv(name, "eu-central-1")
    assert config_of()["region"] == "eu-central-1"


def test_a_named_profile_works_with_its_region_and_endpoint(files, s3_bucket, s3_server, monkeypatch):
    files(
        f"[default]\naws_access_key_id = other\n[lab]\n{PROFILE}",
        "[profile lab]\nregion = eu-west-3\nservices = minio\n"
        f"[services minio]\ns3 =\n  endpoint_url = {s3_server.endpoint}\n",
    )
    monkeypatch.setenv("AWS_PROFILE", "lab")
    bucket = connect(s3_bucket)[0]
    assert (bucket.config["region"], bucket.config["endpoint"]) == ("eu-west-3", s3_server.endpoint)
    given = bucket.credential_provider()
    assert (given["access_key_id"], given["secret_access_key"], given["token"]) == ("file-key", "hidden", None)
    assert "hidden" not in repr(bucket.credential_provider)
    store = CloudStore(f"{s3_bucket}/x")
    store.put("a.txt", b"one")
    assert store.read("a.txt", 10)[0] == b"one"


def test_keys_that_are_renewed_in_the_file_are_used(files):
    files(f"[default]\n{PROFILE}")
    provider = connect("s3://bucket/x")[0].credential_provider
    files(f"[default]\n{PROFILE}aws_session_token = new\n")
    assert provider()["token"] == "new"


def test_keys_of_the_environment_come_before_a_profile(files, monkeypatch):
    files(f"[default]\n{PROFILE}")
    for name in KEYS:
        monkeypatch.setenv(name, "environment")
    assert connect("s3://bucket/x")[0].credential_provider is None


@pytest.mark.parametrize("name", ["AWS_SKIP_SIGNATURE", "AWS_WEB_IDENTITY_TOKEN_FILE"])
def test_what_obstore_does_itself_comes_before_the_default_profile(name, files, monkeypatch):
    files(f"[default]\n{PROFILE}")
    monkeypatch.setenv("AWS_ROLE_ARN", "arn:aws:iam::1:role/x")
    monkeypatch.setenv(name, "true")
    assert connect("s3://bucket/x")[0].credential_provider is None


def test_a_public_bucket_needs_no_credentials(files, s3_bucket, s3_server, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server.endpoint)
    monkeypatch.setenv("AWS_SKIP_SIGNATURE", "true")
    CloudStore(s3_bucket).make_root()


def test_a_profile_that_is_not_there(files, monkeypatch, tmp_path):
    monkeypatch.setenv("AWS_PROFILE", "lab")
    with pytest.raises(ConfigError, match=r"AWS_PROFILE is 'lab', and neither .*aws-config nor .* has such a profile"):
        connect("s3://bucket/x")


def test_a_file_that_is_no_profiles_file(files):
    files("aws_secret_access_key = hidden")
    with pytest.raises(ConfigError, match=r"aws-credentials cannot be read as a file of AWS profiles") as caught:
        connect("s3://bucket/x")
    assert "hidden" not in str(caught.value)
    assert caught.value.__suppress_context__


def test_credential_process_goes_by_boto3(files, s3_bucket, s3_server, monkeypatch, tmp_path):
    given = {"Version": 1, "AccessKeyId": "process-key", "SecretAccessKey": "hidden", "SessionToken": "token"}
    (tmp_path / "keys.json").write_text(json.dumps(given))
    files(config=f"[profile lab]\ncredential_process = cat {tmp_path / 'keys.json'}\n")
    monkeypatch.setenv("AWS_PROFILE", "lab")
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server.endpoint)
    assert connect(s3_bucket)[0].credential_provider()["access_key_id"] == "process-key"
    CloudStore(s3_bucket).make_root()


def test_keys_that_are_gone_from_the_file_are_said(files, s3_bucket, s3_server, monkeypatch):
    files(f"[default]\n{PROFILE}")
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server.endpoint)
    connect(s3_bucket)
    files("[default]\n")
    with pytest.raises(
        PermissionError, match=r"no credentials came: .*aws-credentials has no keys of the profile 'default'"
    ):
        CloudStore(s3_bucket).make_root()


def test_a_credential_process_that_fails(files, s3_bucket, monkeypatch):
    files(config="[profile lab]\ncredential_process = false\n")
    monkeypatch.setenv("AWS_PROFILE", "lab")
    with pytest.raises(ConfigError, match=r"The AWS profile 'lab' gives no credentials: .*custom-process"):
        CloudStore(s3_bucket).make_root()


@pytest.mark.parametrize("option", ["sso_start_url", "sso_session", "role_arn", "credential_process"])
def test_without_boto3_the_message_names_it(option, files, monkeypatch):
    files(config=f"[profile lab]\n{option} = x\n")
    monkeypatch.setenv("AWS_PROFILE", "lab")
    monkeypatch.setitem(sys.modules, "boto3", None)
    with pytest.raises(ConfigError, match=f"profile 'lab' has {option}, which takes boto3: run `pip install boto3`"):
        connect("s3://bucket/x")


def test_a_certificate_that_is_not_there(s3_bucket, monkeypatch):
    monkeypatch.setenv("AWS_CA_BUNDLE", "/none.pem")
    with pytest.raises(ConfigError, match=r"AWS_CA_BUNDLE is /none\.pem, which cannot be read: No such file"):
        connect("s3://bucket/x")


@pytest.mark.parametrize("status", [200, 301, 403])
def test_the_region_that_amazon_says(status, files, monkeypatch):
    class Amazon(BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.send_response(status)
            self.send_header("x-amz-bucket-region", "eu-north-1")
            self.end_headers()

        def log_message(self, *_):
            """Says nothing."""

    with HTTPServer(("127.0.0.1", 0), Amazon) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        monkeypatch.setattr(aws, "_REGION_URL", f"http://127.0.0.1:{server.server_port}/{{bucket}}")
        monkeypatch.setattr(aws, "_REGION_TIMEOUT_S", GUARD_S)
        assert aws.region_of("bucket") == "eu-north-1"
        thread.join()


def test_a_region_that_nobody_says_is_left_to_obstore(files):
    assert aws.region_of("bucket") is None
    assert aws.region_of("with.dots") is None
    files(f"[default]\n{PROFILE}")
    assert "region" not in config_of("s3://unknown/x")
