"""Requests of the protocol, checked field by field.

It knows the messages, their limits and the meaning of unset fields. Pixels are made later, in a
worker's thread.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from limelens.inference import inference_service_pb2 as pb2
from limelens.serve.bundle import Bundle
from limelens.serve.errors import InvalidRequestError
from limelens.serve.image import ResizeRule
from limelens.serve.image.encoded import EncodedImage
from limelens.serve.repository.model_version import ModelVersion
from limelens.serve.rpc.inference.tensors import LayoutError, unpack_elements
from limelens.serve.rpc.server_config import Limits
from limelens.serve.scheduling.inference import FittedImage, PendingImage

INPUT: Final = "images"
PROBABILITIES: Final = "probabilities"
EMBEDDING: Final = "embedding"
OUTPUTS: Final = (PROBABILITIES, EMBEDDING)
_TYPED: Final = {"UINT8": "uint_contents", "BYTES": "bytes_contents"}
_MAX_QUOTED: Final = 100
_MICROSECONDS: Final = 1e6


@dataclass(frozen=True)
class Output:
    """One output that the client wants.

    Args:
        name: `probabilities` or `embedding`.
        top: How many of the largest values to return as text; 0 returns all as numbers.
    """

    name: str
    top: int = 0


@dataclass(frozen=True, eq=False)
class InferSpec:
    """What a client asks of a model.

    Args:
        size_bytes: That the request takes while it waits.
        outputs: In this order; empty means all that the client may have.
        extra_bytes: How much of `size_bytes` the message itself does not take.
    """

    images: Sequence[PendingImage] = field(repr=False)
    size_bytes: int
    outputs: tuple[Output, ...]
    extra_bytes: int = 0


def find(
    get: Callable[[str, int], ModelVersion], name: str, version: str, prefix: str = ""
) -> ModelVersion:
    """The requested model; `prefix` is that of the message's fields `name` and `version`."""
    number = read_version(version, f"{prefix}version")
    try:
        return get(name, number)
    except InvalidRequestError as error:
        field_name = "version" if error.field == "version" else "name"
        raise InvalidRequestError(prefix + field_name, error.description) from error


def read_version(version: str, name: str) -> int:
    """A version as a number; 0 if it is empty."""
    if not version:
        return 0
    if not (version.isascii() and version.isdecimal()) or len(version) > 10 or not int(version):
        raise InvalidRequestError(
            name, f"{_quoted(version)}; expected a whole number of 1 or more, or nothing for newest"
        )
    return int(version)


def read_timeout(request: pb2.ModelInferRequest, now: float) -> float | None:
    """The deadline that the request itself sets, by `time.monotonic`; None if it sets none."""
    if "timeout" not in request.parameters:
        return None
    value = _whole_number(request.parameters["timeout"], "parameters[timeout]", "microseconds")
    return now + value / _MICROSECONDS if value else None


def read_infer(request: pb2.ModelInferRequest, bundle: Bundle, limits: Limits) -> InferSpec:
    """The images and the outputs to return.

    Raises:
        InvalidRequestError: A tensor's name, type, shape or length differs from the model's, or a
            field exceeds its limit.
    """
    _check_names(request)
    tensor = request.inputs[0]
    _check_no_shared_memory(tensor.parameters, "inputs[0]")
    outputs = _read_outputs(request)
    if tensor.datatype == "UINT8":
        return _read_pixels(request, tensor, outputs, bundle.metadata.resize, limits)
    if tensor.datatype == "BYTES":
        return _read_encoded(request, tensor, outputs, limits)
    raise InvalidRequestError(
        "inputs[0].datatype",
        f"{_quoted(tensor.datatype)}; expected UINT8 (pixels) or BYTES (encoded images)",
    )


def _check_names(request: pb2.ModelInferRequest) -> None:
    names = [tensor.name for tensor in request.inputs]
    if len(names) != 1:
        found = ", ".join(_quoted(name) for name in names[:5]) or "none"
        raise InvalidRequestError(
            "inputs", f"{len(names)} tensors ({found}); expected one, {INPUT!r}"
        )
    if names[0] != INPUT:
        raise InvalidRequestError("inputs[0].name", f"{_quoted(names[0])}; expected {INPUT!r}")
    count = len(request.raw_input_contents)
    if count > 1:
        raise InvalidRequestError("raw_input_contents", f"{count} entries for 1 input; expected 1")
    if count and request.inputs[0].contents.ListFields():
        raise InvalidRequestError(
            "inputs[0].contents", "given together with raw_input_contents; expected one of them"
        )


def _read_pixels(
    request: pb2.ModelInferRequest,
    tensor: Any,
    outputs: tuple[Output, ...],
    rule: ResizeRule,
    limits: Limits,
) -> InferSpec:
    shape = tuple(tensor.shape)
    size = (rule.height, rule.width, 3)
    if len(shape) != 4 or shape[1:] != size:
        raise InvalidRequestError(
            "inputs[0].shape",
            f"{_listed(shape)}; the model expects [images, {rule.height}, {rule.width}, 3]",
        )
    count = _count(shape[0], limits)
    length = rule.height * rule.width * 3
    expected = f"{_listed(shape)} UINT8 = {count * length:,}"
    if request.raw_input_contents:
        data = request.raw_input_contents[0]
        if len(data) != count * length:
            raise InvalidRequestError(
                "raw_input_contents[0]", f"{len(data):,} bytes; expected {expected}"
            )
        pixels = np.frombuffer(data, np.uint8).reshape(shape)
        return InferSpec([FittedImage(one) for one in pixels], len(data), outputs)
    values = _typed(tensor)
    if len(values) != count * length:
        raise InvalidRequestError(
            "inputs[0].contents.uint_contents", f"{len(values):,} elements; expected {expected}"
        )
    numbers = [_Numbers(values, slice(i * length, (i + 1) * length)) for i in range(count)]
    return InferSpec(numbers, 4 * len(values), outputs, 3 * len(values))


def _read_encoded(
    request: pb2.ModelInferRequest, tensor: Any, outputs: tuple[Output, ...], limits: Limits
) -> InferSpec:
    shape = tuple(tensor.shape)
    if len(shape) not in (1, 2) or shape[1:] not in ((), (1,)):
        raise InvalidRequestError(
            "inputs[0].shape",
            f"{_listed(shape)}; expected [images] or [images, 1] of encoded images",
        )
    count = _count(shape[0], limits)
    if request.raw_input_contents:
        try:
            encoded = unpack_elements(request.raw_input_contents[0], count)
        except LayoutError as error:
            raise InvalidRequestError("raw_input_contents[0]", str(error)) from error
    else:
        encoded = list(_typed(tensor))
        if len(encoded) != count:
            raise InvalidRequestError(
                "inputs[0].contents.bytes_contents",
                f"{len(encoded)} elements; expected {count}, as the shape says",
            )
    images = [
        EncodedImage(f"{INPUT}[{i}]", data, limits=limits.decoding, is_message=False)
        for i, data in enumerate(encoded)
    ]
    return InferSpec(images, sum(map(len, encoded)), outputs)


@dataclass(frozen=True, slots=True, eq=False)
class _Numbers:
    """A `PendingImage` whose pixels were sent one by one as numbers."""

    values: Sequence[int]
    row: slice

    @property
    def is_quick(self) -> bool:
        return True

    def fitted(self, rule: ResizeRule) -> NDArray[np.uint8]:
        numbers = np.array(self.values[self.row], dtype=np.uint32)
        if numbers.max() > 255:
            where = self.row.start + int(np.argmax(numbers > 255))
            raise InvalidRequestError(
                f"inputs[0].contents.uint_contents[{where}]",
                f"{numbers.max()}; expected 0 to 255, the range of UINT8",
            )
        return numbers.astype(np.uint8).reshape(rule.height, rule.width, 3)


def _count(count: int, limits: Limits) -> int:
    if not 1 <= count <= limits.max_images:
        raise InvalidRequestError(
            "inputs[0].shape", f"{count} images; expected 1 to {limits.max_images}"
        )
    return count


def _typed(tensor: Any) -> Any:
    """The elements that the message lists one by one."""
    expected = _TYPED[tensor.datatype]
    given = [descriptor.name for descriptor, _ in tensor.contents.ListFields()]
    others = [name for name in given if name != expected]
    if others:
        raise InvalidRequestError(
            f"inputs[0].contents.{others[0]}",
            f"set for {tensor.datatype}; expected {expected} or raw_input_contents",
        )
    if not given:
        raise InvalidRequestError(
            "inputs[0]", f"no elements; expected raw_input_contents or contents.{expected}"
        )
    return getattr(tensor.contents, expected)


def _read_outputs(request: pb2.ModelInferRequest) -> tuple[Output, ...]:
    outputs: list[Output] = []
    for i, output in enumerate(request.outputs):
        place = f"outputs[{i}]"
        if output.name not in OUTPUTS:
            raise InvalidRequestError(
                f"{place}.name", f"{_quoted(output.name)}; expected one of {', '.join(OUTPUTS)}"
            )
        if any(one.name == output.name for one in outputs):
            raise InvalidRequestError(f"{place}.name", f"{output.name!r} is given twice")
        _check_no_shared_memory(output.parameters, place)
        top = 0
        if "classification" in output.parameters:
            top = _whole_number(
                output.parameters["classification"], f"{place}.parameters[classification]", "values"
            )
        outputs.append(Output(output.name, top))
    return tuple(outputs)


def _check_no_shared_memory(parameters: Mapping[str, Any], place: str) -> None:
    for key in sorted(parameters):
        if key.startswith("shared_memory_"):
            raise InvalidRequestError(
                f"{place}.parameters[{key[:_MAX_QUOTED]}]",
                "shared memory is not offered; expected the elements in the message",
            )


def _whole_number(parameter: pb2.InferParameter, place: str, unit: str) -> int:
    kind = parameter.WhichOneof("parameter_choice")
    value = getattr(parameter, kind) if kind in ("int64_param", "uint64_param") else -1
    if value < 0:
        found = "nothing" if kind is None else _quoted(getattr(parameter, kind))
        raise InvalidRequestError(
            place, f"{found}; expected a whole number of {unit}, 0 or more, as int64_param"
        )
    return int(value)


def _quoted(value: object) -> str:
    return repr(value)[:_MAX_QUOTED]


def _listed(shape: Sequence[int]) -> str:
    return f"[{', '.join(map(str, shape[:8]))}{', …' if len(shape) > 8 else ''}]"
