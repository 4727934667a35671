"""Checks that an ONNX file is a bundle, before anything runs it.

It reads the graph with `onnx` and knows nothing of onnxruntime.
"""

from __future__ import annotations

import hashlib
import json
import stat
from pathlib import Path
from typing import Final

import numpy as np
import onnx
from onnx import numpy_helper

from limelens.serve.bundle.metadata import Metadata, Task
from limelens.serve.errors import BundleError

MAX_BYTES: Final = 2_000_000_000
_DIGEST: Final = "limelens.graph_digest"
_FLOATS: Final = frozenset(
    number
    for name, number in onnx.TensorProto.DataType.items()
    if name.startswith(("FLOAT", "BFLOAT", "DOUBLE", "COMPLEX"))
)


def read_bundle_file(path: Path) -> tuple[bytes, Metadata]:
    """Reads a bundle's bytes once and checks them and their metadata.

    Sessions are built from these bytes, so that a file that changes in between cannot slip through,
    and a session cannot follow a path to other files.

    Raises:
        BundleError: The file is missing, or is no bundle; the message says why.
    """
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):  # reading a pipe might never end
            raise BundleError(f"{path}: not a regular file; expected a bundle (model.onnx)")
        if found.st_size > MAX_BYTES:
            raise BundleError(
                f"{path}: {found.st_size:,} bytes; a bundle has at most {MAX_BYTES:,}"
            )
        data = path.read_bytes()
    except OSError as error:
        raise BundleError(f"{path}: {error.strerror}; expected a bundle (model.onnx)") from error
    return data, check_bundle(path, data)


def check_bundle(path: Path, data: bytes) -> Metadata:
    """Checks the bytes of a bundle's file; the path is what errors call it.

    Raises:
        BundleError: It is no bundle; the message says why.
    """
    try:
        model = onnx.load_model_from_string(data)
    except Exception as error:
        raise BundleError(f"{path}: not an ONNX file, or an incomplete one") from error
    try:
        return check_model(model)
    except BundleError as error:
        raise BundleError(f"{path}: {error}") from error
    # An unforeseen fault of one file must not take other models down.
    except Exception as error:
        raise BundleError(f"{path}: cannot be checked: {type(error).__name__}: {error}") from error


def read_metadata(path: Path) -> Metadata:
    """Reads and checks the metadata of a bundle's file, as `read_bundle_file`."""
    return read_bundle_file(path)[1]


def check_model(model: onnx.ModelProto) -> Metadata:
    """Checks a graph against the rules of a bundle.

    Raises:
        BundleError: External data, sparse tensors, functions, numbers that are not finite, inputs
            or outputs unlike a bundle's, metadata that does not fit them, or a graph that has
            changed since it was sealed.
    """
    if model.functions:
        names = sorted(function.name for function in model.functions)
        raise BundleError(f"the model defines functions {names}; expected a graph of plain nodes")
    _check_graph(model.graph)
    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError as error:
        raise BundleError(f"not a valid ONNX graph: {error}") from error
    props = {p.key: p.value for p in model.metadata_props}
    metadata = Metadata.from_props(props)
    _check_signature(model.graph, metadata)
    if _DIGEST in props:  # older bundles have none
        expected, found = json.loads(props[_DIGEST]), _graph_digest(model.graph)
        if found != expected:
            raise BundleError(
                "the graph is not the one that the golden vector was made with: its digest is "
                f"{found}, not {expected}; the file was damaged or changed after its export"
            )
    return metadata


def seal(model: onnx.ModelProto, metadata: Metadata) -> None:
    """Makes a model a bundle: replaces its metadata, and adds the digest of its graph.

    The golden vector reveals a broken graph; only the digest reveals a few damaged weights.
    """
    digest = json.dumps(_graph_digest(model.graph))
    onnx.helper.set_model_props(model, {**metadata.to_props(), _DIGEST: digest})


def _graph_digest(graph: onnx.GraphProto) -> str:
    """SHA-256, hexadecimal."""
    return hashlib.sha256(graph.SerializeToString(deterministic=True)).hexdigest()


def _check_signature(graph: onnx.GraphProto, metadata: Metadata) -> None:
    inputs = [(i.name, i.type.tensor_type.elem_type, _shape(i)) for i in graph.input]
    size = (metadata.resize.height, metadata.resize.width, 3)
    if (
        len(inputs) != 1
        or inputs[0][:2] != ("images", onnx.TensorProto.UINT8)
        or inputs[0][2][1:] != size
        or inputs[0][2][0] is not None
    ):
        raise BundleError(
            f"inputs {inputs}; expected one, images: uint8 (N, {size[0]}, {size[1]}, 3), N free"
        )
    outputs = {o.name: _shape(o) for o in graph.output}
    for name in ("probabilities", "embedding"):
        if len(outputs.get(name, ())) != 2:
            raise BundleError(f"outputs {sorted(outputs)}; expected {name} of two dimensions")
    count = outputs["probabilities"][1]
    if metadata.task is Task.DETECTION:
        num_numbers = outputs["embedding"][1]
        if not count or num_numbers != 4 * count:
            raise BundleError(f"{count} scores for {num_numbers} numbers; expected 4 for each box")
    elif count != len(metadata.labels):
        raise BundleError(f"{len(metadata.labels)} labels for {count} outputs")
    golden = metadata.golden
    if golden.image.shape != size or golden.probabilities.shape != (count,):
        raise BundleError(
            f"the golden vector has an image of {golden.image.shape} and "
            f"{golden.probabilities.shape} probabilities; expected {size} and ({count},)"
        )


def _shape(value: onnx.ValueInfoProto) -> tuple[int | None, ...]:
    return tuple(
        d.dim_value if d.HasField("dim_value") else None for d in value.type.tensor_type.shape.dim
    )


def _check_graph(graph: onnx.GraphProto) -> None:
    """Checks every number that is stored in a graph and in the graphs of its nodes."""
    if graph.sparse_initializer:
        raise _sparse(graph.sparse_initializer[0].values.name)
    for tensor in graph.initializer:
        _check_tensor(tensor)
    for node in graph.node:
        for attribute in node.attribute:
            _check_attribute(node, attribute)


def _check_attribute(node: onnx.NodeProto, attribute: onnx.AttributeProto) -> None:
    if attribute.HasField("sparse_tensor") or attribute.sparse_tensors:
        raise _sparse(f"{node.op_type}.{attribute.name}")
    if not np.isfinite([attribute.f, *attribute.floats]).all():
        raise BundleError(f"{node.op_type}.{attribute.name} is not finite")
    if attribute.HasField("t"):
        _check_tensor(attribute.t)
    for tensor in attribute.tensors:
        _check_tensor(tensor)
    if attribute.HasField("g"):
        _check_graph(attribute.g)
    for graph in attribute.graphs:
        _check_graph(graph)


def _check_tensor(tensor: onnx.TensorProto) -> None:
    if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.external_data:
        raise BundleError(
            f"the weights of {tensor.name!r} lie in another file; "
            "expected a file that holds everything"
        )
    if tensor.data_type not in _FLOATS:
        return
    try:
        values = numpy_helper.to_array(tensor)
    except ValueError as error:
        raise BundleError(f"the weights of {tensor.name!r} do not fill their shape") from error
    if not np.isfinite(values).all():
        raise BundleError(f"the weights of {tensor.name!r} are not all finite")


def _sparse(name: str) -> BundleError:
    return BundleError(f"{name!r} is a sparse tensor; expected dense ones")
