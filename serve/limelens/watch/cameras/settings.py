"""The settings of servers and cameras: their values and their ranges.

It knows neither files nor lines, and holds no secret but the address of a source.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator
from pydantic_core.core_schema import ValidationInfo

from limelens.serve.addresses import is_unix, parse_address
from limelens.serve.decisions.camera_state import CameraState
from limelens.serve.errors import InvalidRequestError
from limelens.serve.faces.options import FaceOptions
from limelens.serve.image import Region
from limelens.serve.redaction import without_secrets
from limelens.watch.cameras.schedule import Schedule, parse_schedule

NAME: Final = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$"
"""Names go into topics, files and addresses of pages."""
_USER_INFO: Final = ":"


class ServerSettings(BaseModel):
    """How a server is reached."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    address: str = Field(default="127.0.0.1:8500", description="HOST:PORT, or unix:PATH")
    tls: bool = Field(
        default=False, description="use TLS and the authorities that this system trusts"
    )
    tls_ca: Path | None = Field(default=None, description="use TLS and trust this authority, PEM")
    tls_cert: Path | None = Field(
        default=None, description="send this certificate, PEM; with tls_key"
    )
    tls_key: Path | None = Field(
        default=None, validate_default=True, description="the private key of tls_cert"
    )
    tls_server_name: str | None = Field(
        default=None, description="the name in the server's certificate"
    )
    token_file: Path | None = Field(
        default=None, description="a file that holds the token, read for each call"
    )
    token_env: str | None = Field(default=None, description="the variable that holds the token")
    insecure_token: bool = Field(default=False, description="send the token in plaintext")

    @field_validator("address")
    @classmethod
    def _is_address(cls, value: str) -> str:
        return _address(value)

    @field_validator("tls_key")
    @classmethod
    def _has_certificate(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        if (value is None) != (info.data.get("tls_cert") is None):
            raise ValueError("tls_cert and tls_key are given together")
        return value

    @field_validator("tls_server_name")
    @classmethod
    def _has_tls(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None and not any(map(info.data.get, ("tls", "tls_ca", "tls_cert"))):
            raise ValueError("it needs TLS: set tls or tls_ca")
        return value

    @field_validator("token_env")
    @classmethod
    def _is_only_token(cls, value: str | None, info: ValidationInfo) -> str | None:
        return _only_one(value, info, "token_env", "token_file")

    @property
    def wants_tls(self) -> bool:
        """Whether TLS is used."""
        return self.tls or self.tls_ca is not None or self.tls_cert is not None


class CameraSettings(BaseModel):
    """What one camera looks at, who decides, and where its events go."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    id: str = Field(pattern=NAME, description="the camera's name in events, topics and files")
    source: SecretStr = Field(
        description="a device's number, /dev/videoN, rtsp://…, http(s)://…, a video, or a folder"
    )
    transport: Literal["tcp", "udp"] = Field(
        default="tcp", description="how frames of an rtsp:// camera travel"
    )
    password_file: Path | None = Field(
        default=None, description="a file that holds USER:PASSWORD of the camera"
    )
    password_env: str | None = Field(
        default=None, description="the variable that holds USER:PASSWORD of the camera"
    )
    server: str | None = Field(
        default=None,
        description="HOST:PORT of another server, reached with the options of [server]",
    )
    model: Path | None = Field(default=None, description="a bundle's file, in place of a server")
    model_name: str = Field(default="", description="a model on the server; the only one if empty")
    version: int = Field(default=0, ge=0, description="its version; 0 is the newest")
    region: Region | None = Field(
        default=None, description="the part to look at: [left, top, right, bottom], 0 to 1"
    )
    faces: bool = Field(default=False, description="find the faces and follow the people")
    detect_every: int = Field(
        default=1, ge=1, le=100, description="look for faces in every n-th frame"
    )
    skip_still: bool = Field(default=False, description="keep decisions while nothing moves")
    min_face_px: int = Field(default=24, ge=8, le=4096, description="leave out smaller faces")
    max_unseen_s: float = Field(
        default=2.0, ge=0.001, le=60, description="how long someone unseen keeps their decision"
    )
    fps: float | None = Field(default=None, gt=0, le=1000, description="frames a second at most")
    quality: int = Field(
        default=90, ge=1, le=95, description="JPEG quality of the frames that are sent"
    )
    max_decision_age_s: float = Field(
        default=2.0,
        gt=0,
        le=3600,
        validate_default=True,
        description="how long a decision holds without a newer one",
    )
    frozen_after_s: float = Field(
        default=10.0,
        ge=0,
        le=3600,
        description="the same frame for so long is a frozen camera; 0: never",
    )
    window: int = Field(default=5, ge=1, le=1000, description="frames that a decision considers")
    required: int = Field(
        default=0, ge=0, le=1000, description="how many must agree; 0: more than half"
    )
    required_to_alert: int = Field(
        default=0, ge=0, le=1000, description="how many must agree on an alert; 0: as required"
    )
    threshold: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="the least probability for a decision; the model's own",
    )
    nobody: Literal["clear", "unknown"] = Field(
        default="clear", description="with faces: the state while nobody is there"
    )
    schedule: Schedule | None = Field(
        default=None, description="when it is watched, such as 'mon-fri 07:00-19:00'; always"
    )
    explain: Literal["alerts", "changes", "never"] = Field(
        default="alerts", description="which changes are explained"
    )
    sinks: tuple[str, ...] | None = Field(
        default=None, description="names of the sinks that take its events; all"
    )

    @field_validator("source", mode="before")
    @classmethod
    def _source(cls, value: Any) -> Any:
        # An error must not show an address: it may hold a password.
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        if not isinstance(value, str):
            raise ValueError("it is no text; expected a text, or a device's number")
        scheme, has_scheme, rest = value.partition("://")
        authority = rest.partition("/")[0]
        if has_scheme and "@" in authority and _USER_INFO in authority.rpartition("@")[0]:
            raise ValueError(
                f"{without_secrets(value)} holds a password; expected it in password_file or "
                f"password_env, and the source as {scheme}://HOST/PATH"
            )
        if not value.strip():
            raise ValueError("it is empty; expected a device, an address, a video or a folder")
        return value

    @field_validator("password_env")
    @classmethod
    def _is_only_password(cls, value: str | None, info: ValidationInfo) -> str | None:
        return _only_one(value, info, "password_env", "password_file")

    @field_validator("server")
    @classmethod
    def _server(cls, value: str | None) -> str | None:
        return None if value is None else _address(value)

    @field_validator("model")
    @classmethod
    def _model(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        if value is not None and info.data.get("server") is not None:
            raise ValueError("model and server; expected only one of them")
        return value

    @field_validator("region", mode="before")
    @classmethod
    def _region(cls, value: Any) -> Any:
        if value is None or isinstance(value, Region):
            return value
        numbers = value if isinstance(value, list) else []
        if len(numbers) != 4 or not all(type(one) in (int, float) for one in numbers):
            raise ValueError("expected four fractions such as [0.25, 0, 0.75, 0.6]")
        try:
            return Region(*map(float, numbers))
        except InvalidRequestError as error:
            raise ValueError(error.description) from None

    @field_validator("schedule", mode="before")
    @classmethod
    def _schedule(cls, value: Any) -> Any:
        if value is None or isinstance(value, Schedule):
            return value
        if not isinstance(value, str):
            raise ValueError("expected a text such as 'mon-fri 07:00-19:00'")
        return parse_schedule(value)

    @field_validator("required")
    @classmethod
    def _required(cls, value: int, info: ValidationInfo) -> int:
        window = info.data.get("window", 1)
        if value and not window < 2 * value <= 2 * window:
            raise ValueError(
                f"{value} of a window of {window}; expected {window // 2 + 1} to {window}"
            )
        return value

    @field_validator("required_to_alert")
    @classmethod
    def _required_to_alert(cls, value: int, info: ValidationInfo) -> int:
        window = info.data.get("window", 1)
        most = info.data.get("required") or window // 2 + 1
        if value > most:
            raise ValueError(f"{value}; expected at most required, {most}")
        return value

    @field_validator("max_decision_age_s")
    @classmethod
    def _holds_until_the_next(cls, value: float, info: ValidationInfo) -> float:
        fps = info.data.get("fps")
        if fps is not None and value * fps <= 1:
            raise ValueError(
                f"{value:g} with fps {fps:g}, which gives a frame every {1 / fps:.3g} s; expected "
                "more than that, or the state is never known"
            )
        return value

    @property
    def smoothing(self) -> tuple[int, int]:
        """Window and how many of it must agree."""
        return self.window, self.required or self.window // 2 + 1

    @property
    def holds_for_s(self) -> float | None:
        """How long a decision holds without a newer one; None is until there is one.

        That is so of a file: its next frame waits until an alert is explained, which would end
        the alert, and raise another one.
        """
        path = self.source.get_secret_value()
        is_file = "://" not in path and (Path(path).is_file() or Path(path).is_dir())
        return None if is_file else self.max_decision_age_s

    @property
    def state_of_nobody(self) -> CameraState:
        """The state while nobody is there."""
        return CameraState(self.nobody)

    @property
    def face_options(self) -> FaceOptions | bool:
        """As `faces` of `Client.stream`."""
        if not self.faces:
            return False
        return FaceOptions(
            min_size_px=self.min_face_px,
            detect_every=self.detect_every,
            skip_still_frames=self.skip_still,
            max_unseen_s=self.max_unseen_s,
        )


def _address(value: str) -> str:
    if not is_unix(value):
        parse_address(value)
    return value


def _only_one(value: str | None, info: ValidationInfo, name: str, other: str) -> str | None:
    if value is not None and info.data.get(other) is not None:
        raise ValueError(f"{name} and {other}; expected only one of them")
    return value
