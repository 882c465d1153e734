"""The server's settings: flags > environment (`PRN_GUARD_*`) > `--config` TOML > defaults."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AnyHttpUrl, Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from prn_guard.errors import InvalidArgumentError

Port = Annotated[int, Field(ge=0, le=65535)]
Seconds = Annotated[float, Field(gt=0.0, le=86400.0)]
Count = Annotated[int, Field(ge=1)]


class ServeSettings(BaseSettings):
    """Everything that `prn-guard serve` can be told; port 0 takes a free one."""

    model_config = SettingsConfigDict(
        env_prefix="PRN_GUARD_", extra="forbid", frozen=True, hide_input_in_errors=True
    )

    folder: Path
    model_name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")] | None = None
    public_key: Path | None = None
    engine: Literal["local", "ray"] = "local"
    devices: tuple[Annotated[str, Field(pattern=r"^(cpu|cuda(:\d{1,3})?)$")], ...] = ("cpu",)
    threads: Count | None = None

    host: str = "127.0.0.1"
    port: Port = 8000
    grpc: bool = True
    grpc_port: Port = 8001
    metrics_port: Port | None = None
    page: bool = True

    max_batch: Annotated[int, Field(ge=1, le=4096)] = 32
    max_queue: Annotated[int, Field(ge=1, le=1_000_000)] = 256
    max_delay_ms: Annotated[float, Field(ge=0.0, le=10_000.0)] = 2.0
    max_timeout: Seconds = 30.0

    max_body_bytes: Annotated[int, Field(ge=1024, le=2**31)] = 32 * 2**20
    max_buffered_bytes: Annotated[int, Field(ge=1024, le=2**40)] = 512 * 2**20
    max_pixels: Annotated[int, Field(ge=64, le=50_000_000)] = 50_000_000
    max_connections: Count = 1000
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

    alarm_pictures: Annotated[float, Field(ge=100.0)] = 1e7
    """Clean pictures between false alarms, on average, at least."""
    alarm_window: Annotated[int, Field(ge=10, le=1_000_000)] = 1000
    alarm_webhook: AnyHttpUrl | None = None
    quarantine: Path | None = None
    quarantine_bytes: Annotated[int, Field(ge=2**20)] = 256 * 2**20

    log_level: Literal["debug", "info", "warning", "error"] = "info"
