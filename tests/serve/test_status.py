"""Errors on the wire and back."""

from __future__ import annotations

from typing import Any

import grpc
import pytest

from limelens.serve.errors import (
    BundleError,
    ExpiredError,
    ImageTooLargeError,
    InvalidImageError,
    InvalidRequestError,
    LimelensError,
    MissingExtraError,
    ModelOutputError,
    NotFoundError,
    NotOfferedError,
    OverloadedError,
    PermissionDeniedError,
    ProviderError,
    ServerError,
    UnauthenticatedError,
    UnavailableError,
)
from limelens.serve.status import from_call, is_internal, left_code, to_abort


class Failed(grpc.RpcError):
    """A call that failed as `to_abort` says."""

    def __init__(self, error: BaseException) -> None:
        self._code, self._details, self._trailing = to_abort(error, "id-1")

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str:
        return self._details

    def trailing_metadata(self) -> Any:
        return self._trailing


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InvalidRequestError("top_k", "9; expected 1"), "INVALID_ARGUMENT"),
        (InvalidImageError("damaged", "images[0].encoded"), "INVALID_ARGUMENT"),
        (ImageTooLargeError("too many pixels", "image.raw"), "INVALID_ARGUMENT"),
        (NotFoundError("there is no x", kind="model", name="x"), "NOT_FOUND"),
        (OverloadedError("full", 1.5), "RESOURCE_EXHAUSTED"),
        (UnauthenticatedError("no token"), "UNAUTHENTICATED"),
        (PermissionDeniedError("no right to explain"), "PERMISSION_DENIED"),
        (ExpiredError("late"), "DEADLINE_EXCEEDED"),
        (UnavailableError("going down"), "UNAVAILABLE"),
        (MissingExtraError("install it"), "UNIMPLEMENTED"),
        (NotOfferedError("not here"), "UNIMPLEMENTED"),
        (BundleError("refused"), "FAILED_PRECONDITION"),
        (ProviderError("no CUDA"), "FAILED_PRECONDITION"),
    ],
)
def test_an_error_survives_the_wire(error: LimelensError, code: str) -> None:
    assert to_abort(error, "id-1")[0].name == code
    again = from_call(Failed(error))
    assert type(again) is type(error)
    assert str(again) == str(error)
    assert vars(again) == vars(error)
    assert not is_internal(error)


@pytest.mark.parametrize("error", [ModelOutputError("not finite"), KeyError("secret")])
def test_errors_of_the_server_have_an_id(error: Exception) -> None:
    assert is_internal(error)
    again = from_call(Failed(error))
    assert isinstance(again, ServerError)
    assert (again.code, again.request_id) == ("INTERNAL", "id-1")
    assert "secret" not in str(again)


class Plain(Failed):
    """A call that failed as gRPC itself says."""

    def __init__(self, code: grpc.StatusCode, details: str = "words") -> None:
        self._code, self._details, self._trailing = code, details, ()


def test_a_foreign_status_is_understood_by_its_code() -> None:
    kinds = {
        grpc.StatusCode.UNAVAILABLE: UnavailableError,
        grpc.StatusCode.DEADLINE_EXCEEDED: ExpiredError,
        grpc.StatusCode.RESOURCE_EXHAUSTED: OverloadedError,
        grpc.StatusCode.UNAUTHENTICATED: UnauthenticatedError,
        grpc.StatusCode.PERMISSION_DENIED: PermissionDeniedError,
        grpc.StatusCode.UNIMPLEMENTED: ServerError,
        grpc.StatusCode.INVALID_ARGUMENT: ServerError,
    }
    for code, kind in kinds.items():
        assert type(from_call(Plain(code))) is kind


def test_a_message_over_the_limit_is_not_worth_trying_again() -> None:
    words = "SERVER: Received message larger than max (34603100 vs. 33554432)"
    error = from_call(Plain(grpc.StatusCode.RESOURCE_EXHAUSTED, words))
    assert type(error) is InvalidRequestError
    assert str(error) == "message of 34,603,100 bytes; the limit is 33,554,432"


def test_long_texts_are_cut_to_fit_the_trailers() -> None:
    _, message, trailing = to_abort(InvalidRequestError("x", "y" * 100_000), "id")
    assert len(message) <= 1000
    assert sum(len(value) for _, value in trailing) < 6000


def test_grpcs_own_retries_get_the_delay() -> None:
    trailing = dict(to_abort(OverloadedError("full", 0.25), "id")[2])
    assert trailing["grpc-retry-pushback-ms"] == "250"


@pytest.mark.parametrize(
    ("remaining_s", "passed_s", "code"),
    [
        (None, 5.0, "CANCELLED"),
        (-0.1, 0.4, "DEADLINE_EXCEEDED"),
        (0.009, 0.3, "DEADLINE_EXCEEDED"),
        (0.1, 20.0, "DEADLINE_EXCEEDED"),
        (0.1, 1.0, "CANCELLED"),
        (1.0, 20.0, "CANCELLED"),
    ],
)
def test_who_left_at_the_deadline_is_distinguished(
    remaining_s: float | None, passed_s: float, code: str
) -> None:
    assert left_code(remaining_s, passed_s) == code
