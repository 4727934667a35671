"""Requests of the protocol as they come in, checked field by field, as plain values.

It knows the messages, their limits and what unset means. It runs and decodes nothing: that is
left to whoever calls what prepares an image, in a thread of its choice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from limelens.inference import inference_service_pb2 as pb2
from limelens.serve.access.caller import may, require
from limelens.serve.access.rights import Right
from limelens.serve.bundle import Bundle
from limelens.serve.errors import InvalidRequestError
from limelens.serve.image import ResizeRule
from limelens.serve.image.encoded import EncodedImage
from limelens.serve.repository.model_version import ModelVersion
from limelens.serve.repository.registry import ModelRegistry
from limelens.serve.rpc.inference.tensors import LayoutError, unpack_elements
from limelens.serve.rpc.requests.classify import Limits
from limelens.serve.scheduling.inference import Prepare

INPUT: Final = "images"
PROBABILITIES: Final = "probabilities"
EMBEDDING: Final = "embedding"
OUTPUTS: Final = (PROBABILITIES, EMBEDDING)
_TYPED: Final = {"UINT8": "uint_contents", "BYTES": "bytes_contents"}
_MAX_SHOWN: Final = 100
_MICROSECONDS: Final = 1e6


@dataclass(frozen=True)
class Wanted:
    """One output that is to come back.

    Args:
        name: `probabilities` or `embedding`.
        top: So many of the largest values as text; 0 means all as numbers.
    """

    name: str
    top: int = 0


@dataclass(frozen=True, eq=False)
class InferSpec:
    """What a model is asked.

    Args:
        prepare: For each image what makes its pixels; empty where images are encoded.
        size_bytes: What the images take while they wait.
        wanted: What is to come back, in this order.
        encoded: The images that are to be decoded; empty where pixels were sent.
        unpacked_bytes: Of them, what they take beyond their bytes in the message.
    """

    prepare: Sequence[Prepare] = field(repr=False)
    size_bytes: int
    wanted: tuple[Wanted, ...]
    encoded: Sequence[EncodedImage] = field(default=(), repr=False)
    unpacked_bytes: int = 0

    @property
    def num_images(self) -> int:
        """How many images the model is shown."""
        return len(self.prepare) + len(self.encoded)

    @property
    def embed(self) -> bool:
        """Whether feature vectors are wanted."""
        return any(one.name == EMBEDDING for one in self.wanted)


def find(repository: ModelRegistry, name: str, version: str, prefix: str = "") -> ModelVersion:
    """The model that is meant.

    Args:
        repository: What is served.
        name: Empty means the only one.
        version: A whole number as text; empty means the newest.
        prefix: Of the fields `name` and `version` of the message.

    Raises:
        InvalidRequestError: The name is missing or the version is no number.
        NotFoundError: No such model or version.
    """
    number = read_version(version, f"{prefix}version")
    try:
        return repository.get(name, number)
    except InvalidRequestError as error:
        field_name = "version" if error.field == "version" else "name"
        raise InvalidRequestError(prefix + field_name, error.description) from error


def read_version(version: str, name: str) -> int:
    """A version as a number; 0 where it is empty.

    Raises:
        InvalidRequestError: It is no number of 1 or more.
    """
    if not version:
        return 0
    if not (version.isascii() and version.isdecimal()) or len(version) > 10 or not int(version):
        raise InvalidRequestError(
            name, f"{_shown(version)}; expected a whole number of 1 or more, or nothing for newest"
        )
    return int(version)


def read_timeout(request: pb2.ModelInferRequest, now: float) -> float | None:
    """When nobody waits for the answer any more, as the request itself says.

    Args:
        request: The message.
        now: By `time.monotonic`.

    Returns:
        By `time.monotonic`; None means it says nothing.

    Raises:
        InvalidRequestError: The parameter is no number of microseconds.
    """
    if "timeout" not in request.parameters:
        return None
    value = _whole_number(request.parameters["timeout"], "parameters[timeout]", "microseconds")
    return now + value / _MICROSECONDS if value else None


def read_infer(request: pb2.ModelInferRequest, bundle: Bundle, limits: Limits) -> InferSpec:
    """The images, and what is wanted of them.

    Raises:
        InvalidRequestError: A tensor has another name, type, shape or length than the model's, or
            a field is not within its limits.
    """
    _check_names(request)
    tensor = request.inputs[0]
    _check_no_shared_memory(tensor.parameters, "inputs[0]")
    read = _READERS.get(tensor.datatype)
    if read is None:
        raise InvalidRequestError(
            "inputs[0].datatype",
            f"{_shown(tensor.datatype)}; expected UINT8 (pixels) or BYTES (encoded images)",
        )
    wanted = _read_outputs(request)
    found: _Reading = read(request, tensor, bundle.metadata.resize, limits)
    return InferSpec(found.prepare, found.size_bytes, wanted, found.encoded, found.unpacked_bytes)


def _check_names(request: pb2.ModelInferRequest) -> None:
    names = [tensor.name for tensor in request.inputs]
    if len(names) != 1:
        found = ", ".join(_shown(name) for name in names[:5]) or "none"
        raise InvalidRequestError(
            "inputs", f"{len(names)} tensors ({found}); expected one, {INPUT!r}"
        )
    if names[0] != INPUT:
        raise InvalidRequestError("inputs[0].name", f"{_shown(names[0])}; expected {INPUT!r}")
    count = len(request.raw_input_contents)
    if count > 1:
        raise InvalidRequestError("raw_input_contents", f"{count} entries for 1 input; expected 1")
    if count and request.inputs[0].contents.ListFields():
        raise InvalidRequestError(
            "inputs[0].contents", "given together with raw_input_contents; expected one of them"
        )


@dataclass(frozen=True, eq=False)
class _Reading:
    prepare: Sequence[Prepare]
    size_bytes: int
    encoded: Sequence[EncodedImage] = ()
    unpacked_bytes: int = 0


def _read_pixels(
    request: pb2.ModelInferRequest, tensor: Any, rule: ResizeRule, limits: Limits
) -> _Reading:
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
        return _Reading([_giving(pixels[i]) for i in range(count)], len(data))
    values = _typed(tensor)
    if len(values) != count * length:
        raise InvalidRequestError(
            "inputs[0].contents.uint_contents", f"{len(values):,} elements; expected {expected}"
        )
    rows = [slice(i * length, (i + 1) * length) for i in range(count)]
    prepare = [_converting(values, row, size) for row in rows]
    return _Reading(prepare, 4 * len(values), unpacked_bytes=3 * len(values))


def _read_encoded(
    request: pb2.ModelInferRequest, tensor: Any, _rule: ResizeRule, limits: Limits
) -> _Reading:
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
    return _Reading((), sum(map(len, encoded)), images)


_READERS: Final[Mapping[str, Callable[..., _Reading]]] = {
    "UINT8": _read_pixels,
    "BYTES": _read_encoded,
}


def _count(count: int, limits: Limits) -> int:
    if not 1 <= count <= limits.max_images:
        raise InvalidRequestError(
            "inputs[0].shape", f"{count} images; expected 1 to {limits.max_images}"
        )
    return count


def _typed(tensor: Any) -> Any:
    """The elements that were given one by one."""
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


def _giving(pixels: NDArray[np.uint8]) -> Prepare:
    return lambda: pixels


def _converting(values: Sequence[int], row: slice, size: tuple[int, int, int]) -> Prepare:
    def convert() -> NDArray[np.uint8]:
        numbers = np.array(values[row], dtype=np.uint32)
        if numbers.max() > 255:
            where = row.start + int(np.argmax(numbers > 255))
            raise InvalidRequestError(
                f"inputs[0].contents.uint_contents[{where}]",
                f"{numbers.max()}; expected 0 to 255, the range of UINT8",
            )
        return numbers.astype(np.uint8).reshape(size)

    return convert


def _read_outputs(request: pb2.ModelInferRequest) -> tuple[Wanted, ...]:
    wanted: list[Wanted] = []
    for i, output in enumerate(request.outputs):
        place = f"outputs[{i}]"
        if output.name not in OUTPUTS:
            raise InvalidRequestError(
                f"{place}.name", f"{_shown(output.name)}; expected one of {', '.join(OUTPUTS)}"
            )
        if any(one.name == output.name for one in wanted):
            raise InvalidRequestError(f"{place}.name", f"{output.name!r} a second time")
        _check_no_shared_memory(output.parameters, place)
        top = 0
        if "classification" in output.parameters:
            top = _whole_number(
                output.parameters["classification"],
                f"{place}.parameters[classification]",
                "values",
            )
        if output.name == EMBEDDING:
            require(Right.EMBED)
        wanted.append(Wanted(output.name, top))
    # Who names none gets all that they may have.
    return tuple(wanted) or tuple(
        Wanted(name) for name in OUTPUTS if name != EMBEDDING or may(Right.EMBED)
    )


def _check_no_shared_memory(parameters: Mapping[str, Any], place: str) -> None:
    for key in sorted(parameters):
        if key.startswith("shared_memory_"):
            raise InvalidRequestError(
                f"{place}.parameters[{key[:_MAX_SHOWN]}]",
                "shared memory is not offered; expected the elements in the message",
            )


def _whole_number(parameter: pb2.InferParameter, place: str, unit: str) -> int:
    kind = parameter.WhichOneof("parameter_choice")
    value = getattr(parameter, kind) if kind in ("int64_param", "uint64_param") else -1
    if value < 0:
        found = "nothing" if kind is None else _shown(getattr(parameter, kind))
        raise InvalidRequestError(
            place, f"{found}; expected a whole number of {unit}, 0 or more, as int64_param"
        )
    return int(value)


def _shown(value: object) -> str:
    return repr(value)[:_MAX_SHOWN]


def _listed(shape: Sequence[int]) -> str:
    return f"[{', '.join(map(str, shape[:8]))}{', …' if len(shape) > 8 else ''}]"
