"""The server's settings: flags > environment (`PRN_GUARD_*`) > `--config` TOML > defaults."""

import ipaddress
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self, final

from pydantic import Field, SecretStr, ValidationError, model_validator
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from prn_guard.errors import InvalidArgumentError
from prn_guard.plain_files import read_bounded

LEAST_TOKEN: Final = 16
"""Characters of a bearer token: 16 random letters and digits hold 95 bits."""
MAX_TOKEN_BYTES: Final = 4096
MAX_CONFIG_BYTES: Final = 1 << 20

Port = Annotated[int, Field(ge=0, le=65535)]
Seconds = Annotated[float, Field(gt=0.0, le=86400.0)]
Count = Annotated[int, Field(ge=1, le=1_000_000)]
DeviceName = Annotated[str, Field(pattern=r"^(cpu|cuda(:[0-9]{1,3})?)$")]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]


@final
class ServeSettings(BaseSettings):
    """Everything that `prn-guard serve` can be told.

    The environment's names are those of the fields with `PRN_GUARD_` before them, and a TOML file
    has them as top-level keys. Port 0 takes a free one. Sizes are in bytes, times in seconds.
    """

    model_config = SettingsConfigDict(
        env_prefix="PRN_GUARD_",
        env_ignore_empty=True,
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
        allow_inf_nan=False,
        validate_default=True,
    )

    folder: Path
    model_name: Name | None = None
    public_key: Path | None = None
    engine: Literal["local", "ray"] = "local"
    devices: Annotated[tuple[DeviceName, ...], NoDecode, Field(min_length=1, max_length=64)] = (
        "cpu",
    )
    threads: Annotated[int, Field(ge=1, le=1024)] | None = None

    host: Annotated[str, Field(min_length=1)] = "127.0.0.1"
    port: Port = 8000
    grpc: bool = True
    grpc_port: Port = 8001
    metrics_port: Port | None = None
    page: bool = True

    max_batch: Annotated[int, Field(ge=1, le=4096)] = 32
    max_queue: Count = 256
    max_delay_ms: Annotated[float, Field(ge=0.0, le=10_000.0)] = 2.0
    max_timeout: Seconds = 30.0

    max_body_bytes: Annotated[int, Field(ge=1024, le=2**31)] = 32 * 2**20
    max_json_bytes: Annotated[int, Field(ge=1024, le=2**31)] = 4 * 2**20
    """While JSON is read nothing else is: 30 MB of it took up to 4 seconds. Binary data is free."""
    max_buffered_bytes: Annotated[int, Field(ge=1024, le=2**40)] = 512 * 2**20
    max_pixels: Annotated[int, Field(ge=64, le=50_000_000)] = 50_000_000
    max_connections: Count = 512
    header_timeout: Seconds = 10.0
    body_timeout: Seconds = 30.0
    keep_alive: Seconds = 60.0
    stop_delay: Annotated[float, Field(ge=0.0, le=600.0)] = 1.0
    stop_timeout: Seconds = 30.0

    token: SecretStr | None = None
    token_file: Path | None = None
    insecure: bool = False
    tls_cert: Path | None = None
    tls_key: Path | None = None

    alarm_pictures: Annotated[float, Field(ge=100.0, le=1e15)] = 1e7
    """Clean pictures between false alarms, on average, at least."""
    alarm_window: Annotated[int, Field(ge=10, le=1_000_000)] = 1000
    alarm_webhook: SecretStr | None = None
    quarantine: Path | None = None
    quarantine_bytes: Annotated[int, Field(ge=2**20, le=2**50)] = 256 * 2**20

    log_level: Literal["debug", "info", "warning", "error"] = "info"

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only what the constructor is given: `read_settings` joins the sources."""
        del settings_cls, env_settings, dotenv_settings, file_secret_settings
        return (init_settings,)

    @model_validator(mode="before")
    @classmethod
    def _split_devices(cls, given: Any) -> Any:
        """`cpu` or `cuda:0,cuda:1`, as flags and the environment have them."""
        if isinstance(given, dict) and isinstance(given.get("devices"), str):
            names = [name.strip() for name in given["devices"].split(",")]
            return {**given, "devices": tuple(names)}
        return given

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        if self.token is not None and self.token_file is not None:
            raise ValueError("token and token_file are both given; leave one out")
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("tls_cert and tls_key go together; give both or neither")
        if self.token is not None:
            _check_token(self.token.get_secret_value())
        if self.max_body_bytes > self.max_buffered_bytes:
            raise ValueError("max_buffered_bytes must be at least max_body_bytes")
        if not (self.loopback or self.guarded or self.insecure):
            raise ValueError(
                f"host {self.host} can be reached from other machines, and no bearer token is set: "
                "give --token-file or PRN_GUARD_TOKEN, or --insecure if something in front of this "
                "server checks who may call it"
            )
        return self

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach the server."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def guarded(self) -> bool:
        """Whether clients must show a token."""
        return self.token is not None or self.token_file is not None

    @property
    def name(self) -> str:
        """What the model is called: `model_name`, or the folder's own name."""
        return self.model_name or self.folder.resolve().name or "guarded"

    def secret(self) -> str | None:
        """The bearer token, read from its file where there is one; None where none is needed.

        Raises:
            InvalidArgumentError: the file cannot be read, or holds no token.
        """
        if self.token_file is None:
            return None if self.token is None else self.token.get_secret_value()
        try:
            text = read_bounded(self.token_file, MAX_TOKEN_BYTES).decode("ascii").strip()
            _check_token(text)
        except ValueError as error:
            # What the file holds is a secret, and may be one even where it is no token.
            raise InvalidArgumentError(
                f"{self.token_file} holds no bearer token: one line of at least {LEAST_TOKEN} "
                "printable ASCII characters without spaces, as `openssl rand -hex 32` writes it."
            ) from error
        return text

    def printed(self) -> dict[str, Any]:
        """Every setting as JSON; of secrets, and a webhook's address is one, that they are set."""
        return self.model_dump(mode="json") | {
            name: None if getattr(self, name) is None else "set"
            for name in ("token", "alarm_webhook")
        }


def read_settings(flags: Mapping[str, Any], config: Path | None = None) -> ServeSettings:
    """Settings from flags, the environment, and a TOML file, the first of them first.

    Args:
        flags: by the settings' names; None where a flag was not given.
        config: the TOML file.

    Raises:
        InvalidArgumentError: a value or a name that is no setting's, settings that do not fit
            together, or a file that is no TOML. The message names the setting, never its value.
        ArtifactError: the file cannot be read.
    """
    given = {name: value for name, value in flags.items() if value is not None}
    try:
        found = EnvSettingsSource(ServeSettings)()
        return ServeSettings(**{**_from_file(config), **found, **given})
    except (ValidationError, SettingsError) as error:
        raise InvalidArgumentError(f"The settings do not hold: {_complaints(error)}") from error


def _complaints(error: ValidationError | SettingsError) -> str:
    if isinstance(error, SettingsError):
        return f"{error}."
    said = []
    for entry in error.errors(include_input=False, include_url=False):
        place = ".".join(str(part) for part in entry["loc"])
        unknown = entry["type"] == "extra_forbidden"
        reason = "there is no such setting" if unknown else entry["msg"]
        reason = reason.removeprefix("Value error, ")
        said.append(f"{place[:100]}: {reason}" if place else reason)
    return "; ".join(said) + "."


def _from_file(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        content = tomllib.loads(read_bounded(path, MAX_CONFIG_BYTES).decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise InvalidArgumentError(f"{path} cannot be read as TOML: {error}.") from error
    if "token" in content:
        raise InvalidArgumentError(
            f"{path} holds the token itself. Put it into a file that only the server may read, and "
            "name that as token_file."
        )
    return content


def _check_token(token: str) -> None:
    if len(token) < LEAST_TOKEN or not all("!" <= character <= "~" for character in token):
        raise ValueError(
            f"the token must be at least {LEAST_TOKEN} printable ASCII characters without spaces"
        )
