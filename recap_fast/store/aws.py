"""What AWS's environment variables and files say of S3, as boto3 and the AWS command line read them."""

import configparser
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from recap_fast.errors import ConfigError

_NEEDS_BOTO3 = ("sso_session", "sso_start_url", "role_arn", "credential_process", "login_session")
"""Options of a profile whose credentials another program or server gives."""
_REREAD = timedelta(minutes=15)
"""Tools renew the keys in the file while a run goes on."""
_REGION_URL = "https://{bucket}.s3.amazonaws.com/"
_REGION_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class Profile:
    """A profile of ~/.aws/credentials and ~/.aws/config."""

    name: str
    options: Mapping[str, str]
    s3_endpoint: str | None
    """Of the section `services` that it names."""

    @property
    def has_keys(self) -> bool:
        return "aws_access_key_id" in self.options and "aws_secret_access_key" in self.options


def settings(bucket: str, _: str, environment: Mapping[str, str]) -> dict[str, Any]:
    """Of obstore's S3Store: endpoint, region, and credentials where obstore does not find them by itself.

    It finds those of the environment, of a web identity, of an ECS or EKS container and of an EC2 instance. The order
    is boto3's: environment, profile, container, instance. Raises ConfigError.
    """
    profile = read_profile(environment)
    found: dict[str, Any] = {}
    if endpoint := _endpoint(environment, profile):
        if "://" not in endpoint:
            raise ConfigError(f"The S3 endpoint is {endpoint!r}: write it with its scheme, https://{endpoint}.")
        found |= {"endpoint": endpoint, "allow_http": endpoint.startswith("http://")}
    region = environment.get("AWS_REGION") or environment.get("AWS_DEFAULT_REGION") or profile.options.get("region")
    if region := region or (None if endpoint else region_of(bucket)):
        found["region"] = region
    if certificate := environment.get("AWS_CA_BUNDLE") or profile.options.get("ca_bundle"):
        found["root_certificate"] = _read(certificate)
    if provider := _provider(environment, profile):
        found["credential_provider"] = provider
    return found


def read_profile(environment: Mapping[str, str]) -> Profile:
    """The profile that AWS_PROFILE names, or the default one. Raises ConfigError if the named one is not there."""
    named = environment.get("AWS_PROFILE") or environment.get("AWS_DEFAULT_PROFILE")
    name = named or "default"
    files = _files(environment)
    config, credentials = (_parse(file) for file in files)
    sections = [config.get(name if name == "default" else f"profile {name}"), credentials.get(name)]
    if named and not any(section is not None for section in sections):
        raise ConfigError(f"AWS_PROFILE is {name!r}, and neither {files[0]} nor {files[1]} has such a profile.")
    options = {key: value for section in sections for key, value in (section or {}).items()}
    services = config.get(f"services {options.get('services')}", {})
    return Profile(name, options, _nested(services.get("s3", "")).get("endpoint_url"))


def region_of(bucket: str) -> str | None:
    """Where Amazon says that a bucket lies; it needs no credentials. None where it does not say."""
    if "." in bucket:  # its name does not fit the server's certificate
        return None
    request = urllib.request.Request(_REGION_URL.format(bucket=bucket), method="HEAD")
    try:
        with urllib.request.urlopen(request, timeout=_REGION_TIMEOUT_S) as answer:
            headers = answer.headers
    except urllib.error.HTTPError as error:
        with error:
            headers = error.headers
    except (OSError, ValueError):
        return None
    region: str | None = headers.get("x-amz-bucket-region")
    return region


def _endpoint(environment: Mapping[str, str], profile: Profile) -> str | None:
    variables = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
    named = next((environment[name] for name in variables if environment.get(name)), None)
    return named or profile.s3_endpoint or profile.options.get("endpoint_url")


def _provider(environment: Mapping[str, str], profile: Profile) -> Any:
    """What gives the credentials; None where obstore finds them itself."""
    native = ("AWS_ACCESS_KEY_ID", "AWS_WEB_IDENTITY_TOKEN_FILE")
    is_anonymous = environment.get("AWS_SKIP_SIGNATURE", "").lower() in ("1", "true", "yes", "on")
    if is_anonymous or any(environment.get(name) for name in native):
        return None
    if any(name in profile.options for name in _NEEDS_BOTO3):
        return _boto3_provider(profile)
    return _Keys(dict(environment)) if profile.has_keys else None


@dataclass(frozen=True, repr=False)
class _Keys:
    """The keys of a profile, read from its file again now and then."""

    environment: Mapping[str, str]

    def __call__(self) -> dict[str, Any]:
        profile = read_profile(self.environment)
        options = profile.options
        if not profile.has_keys:
            raise ConfigError(f"{_files(self.environment)[1]} has no keys of the profile {profile.name!r} any more.")
        return {
            "access_key_id": options["aws_access_key_id"],
            "secret_access_key": options["aws_secret_access_key"],
            "token": options.get("aws_session_token"),
            "expires_at": datetime.now(UTC) + _REREAD,
        }


def _boto3_provider(profile: Profile) -> Any:
    try:
        import boto3
        from obstore.auth.boto3 import Boto3CredentialProvider
    except ImportError as error:
        way = next(name for name in _NEEDS_BOTO3 if name in profile.options)
        raise ConfigError(
            f"The AWS profile {profile.name!r} has {way}, which takes boto3: run `pip install boto3`."
        ) from error
    from botocore.exceptions import BotoCoreError

    try:
        return Boto3CredentialProvider(boto3.Session(profile_name=profile.name))
    except (BotoCoreError, ValueError) as error:
        raise ConfigError(f"The AWS profile {profile.name!r} gives no credentials: {error}.") from error


def _files(environment: Mapping[str, str]) -> list[Path]:
    """Those of the configuration and of the keys."""
    return [
        Path(environment.get(variable) or f"~/.aws/{file}").expanduser()
        for variable, file in (("AWS_CONFIG_FILE", "config"), ("AWS_SHARED_CREDENTIALS_FILE", "credentials"))
    ]


def _parse(file: Path) -> Mapping[str, Mapping[str, str]]:
    parser = configparser.RawConfigParser(default_section="")
    try:
        parser.read_string(file.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, configparser.Error):  # the error would quote its lines
        raise ConfigError(f"{file} cannot be read as a file of AWS profiles: mend it, or move it away.") from None
    return {name: dict(parser[name]) for name in parser.sections()}


def _nested(text: str) -> dict[str, str]:
    """The indented lines `name = value` under an option."""
    pairs = (line.partition("=") for line in text.splitlines() if "=" in line)
    return {name.strip(): value.strip() for name, _, value in pairs}


def _read(certificate: str) -> bytes:
    try:
        return Path(certificate).read_bytes()
    except OSError as error:
        raise ConfigError(f"AWS_CA_BUNDLE is {certificate}, which cannot be read: {error.strerror}.") from error
