"""The stock tritonclient against a real server: what its users do, unchanged."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from limelens.serve import Client

RED = np.full((32, 32, 3), (255, 0, 0), np.uint8)
BLUE = np.full((32, 32, 3), (0, 0, 255), np.uint8)
Stock = Callable[[str], Any]


def probabilities(client: Client, *images: np.ndarray) -> list[list[float]]:
    """What Classify says, in the order of the labels."""
    order = ("red", "green", "blue")
    answers = [
        {score.label: score.probability for score in one.scores}
        for one in client.classify(list(images))
    ]
    return [[answer[label] for label in order] for answer in answers]


def test_server_and_model_are_live_and_ready(stock: Stock) -> None:
    code = """
    return [
        client.is_server_live(), client.is_server_ready(),
        client.is_model_ready("colours"), client.is_model_ready("colours", "1"),
    ]
    """
    assert stock(code) == [True] * 4


def test_an_unknown_model_is_not_ready_and_no_error(stock: Stock) -> None:
    assert stock("return client.is_model_ready('nothing')") is False
    assert stock("return client.is_model_ready('colours', '7')") is False


def test_the_server_reports_its_metadata(stock: Stock) -> None:
    found = stock("return client.get_server_metadata(as_json=True)")
    assert found["name"] == "limelens"
    assert found["version"]
    assert {"classification", "model_configuration", "statistics"} <= {*found["extensions"]}


def test_metadata_and_config_name_the_tensors_of_the_graph(stock: Stock) -> None:
    metadata = stock("return client.get_model_metadata('colours', as_json=True)")
    assert metadata == {
        "name": "colours",
        "versions": ["1"],
        "platform": "onnxruntime_onnx",
        "inputs": [{"name": "images", "datatype": "UINT8", "shape": ["-1", "32", "32", "3"]}],
        "outputs": [
            {"name": "probabilities", "datatype": "FP32", "shape": ["-1", "3"]},
            {"name": "embedding", "datatype": "FP32", "shape": ["-1", "3"]},
        ],
    }
    config = stock("return client.get_model_config('colours', '1', as_json=True)")["config"]
    assert config["max_batch_size"] == 64
    assert config["input"] == [
        {
            "name": "images",
            "data_type": "TYPE_UINT8",
            "format": "FORMAT_NHWC",
            "dims": ["32", "32", "3"],
        }
    ]
    assert [one["name"] for one in config["output"]] == ["probabilities", "embedding"]
    assert config["backend"] == "onnxruntime"
    assert config["instance_group"][0]["kind"] == "KIND_CPU"
    labels = config["parameters"]["limelens.labels"]["string_value"]
    assert labels == '["red", "green", "blue"]'


def test_pixels_give_the_probabilities_that_classify_gives(stock: Stock, client: Client) -> None:
    found = stock("return numbers(client.infer('colours', [tensor(pixels(RED, BLUE))]))")
    assert found == probabilities(client, RED, BLUE)


def test_encoded_images_of_any_size_are_read_under_the_same_name(
    stock: Stock, client: Client
) -> None:
    code = """
    images = encoded(*pixels(RED, size=50), *pixels(BLUE, size=20))
    flat = client.infer("colours", [tensor(images)])
    column = client.infer("colours", [tensor(images.reshape(2, 1))])
    return [numbers(flat), numbers(column)]
    """
    expected = probabilities(client, RED, BLUE)
    assert stock(code) == [expected, expected]


def test_all_outputs_are_returned_if_none_is_named(stock: Stock) -> None:
    code = """
    result = client.infer("colours", [tensor(pixels(RED))], request_id="mine")
    answer = result.get_response(as_json=True)
    return [answer["id"], answer["model_name"], answer["model_version"],
            [one["name"] for one in answer["outputs"]], numbers(result, "embedding")]
    """
    assert stock(code) == [
        "mine",
        "colours",
        "1",
        ["probabilities", "embedding"],
        [[1.0, 0.0, 0.0]],
    ]


def test_only_requested_outputs_are_returned_in_order(stock: Stock) -> None:
    code = """
    def named(*outputs):
        result = client.infer("colours", [tensor(pixels(RED, BLUE))], outputs=list(outputs))
        return [one["name"] for one in result.get_response(as_json=True)["outputs"]]
    return [named(wanted("embedding")), named(wanted("probabilities")),
            named(wanted("embedding"), wanted("probabilities"))]
    """
    assert stock(code) == [["embedding"], ["probabilities"], ["embedding", "probabilities"]]


def test_a_classification_names_the_largest_values(stock: Stock) -> None:
    code = """
    outputs = [wanted("probabilities", 2), wanted("embedding", 1)]
    result = client.infer("colours", [tensor(pixels(RED, BLUE))], outputs=outputs)
    more = client.infer("colours", [tensor(pixels(RED))], outputs=[wanted("probabilities", 99)])
    return [texts(result), texts(result, "embedding"), len(texts(more)[0])]
    """
    assert stock(code) == [
        [["0.995067:0:red", "0.002467:1:green"], ["0.995067:2:blue", "0.002467:0:red"]],
        [["1.000000:0"], ["1.000000:2"]],
        3,
    ]


def test_compressed_requests_are_read(stock: Stock) -> None:
    code = """
    inputs = [tensor(pixels(RED))]
    return numbers(client.infer("colours", inputs, compression_algorithm="gzip"))[0][0]
    """
    assert stock(code) > 0.99


def test_asynchronous_calls_work(stock: Stock) -> None:
    code = """
    answers = queue.Queue()
    for colour in (RED, GREEN, BLUE) * 4:
        client.async_infer(
            "colours", [tensor(pixels(colour))],
            lambda result, error, colour=colour: answers.put((colour, result, error)),
        )
    found = []
    for _ in range(12):
        colour, result, error = answers.get(timeout=60)
        assert error is None, error
        found.append(numbers(result, "embedding")[0] == [value / 255 for value in colour])
    return found
    """
    assert stock(code) == [True] * 12


def test_a_stream_keeps_its_order_and_survives_bad_requests(stock: Stock) -> None:
    code = """
    answers = queue.Queue()
    client.start_stream(lambda result, error: answers.put((result, error)))
    for i in range(40):
        values = pixels((RED, GREEN, BLUE)[i % 3], size=31 if i == 17 else 32)
        client.async_stream_infer("colours", [tensor(values)], request_id=str(i))
    found = []
    for i in range(40):
        result, error = answers.get(timeout=60)
        if error is not None:
            found.append(error.message())
            continue
        answer = result.get_response(as_json=True)
        assert answer["parameters"]["triton_final_response"]["bool_param"] is True
        found.append([answer["id"], int(np.argmax(numbers(result)[0]))])
    client.stop_stream()
    return found
    """
    found = stock(code)
    assert "[1, 31, 31, 3]; the model expects [images, 32, 32, 3]" in found.pop(17)
    assert found == [[str(i), i % 3] for i in range(40) if i != 17]


def test_the_asynchronous_client_works_for_calls_and_streams(stock: Stock) -> None:
    code = """
    import asyncio
    from tritonclient.grpc.aio import InferenceServerClient

    async def ask():
        async with InferenceServerClient(ADDRESS) as own:
            single = await own.infer("colours", [tensor(pixels(BLUE))])

            async def requests():
                for colour in (RED, GREEN, BLUE):
                    yield {"model_name": "colours", "inputs": [tensor(pixels(colour))]}

            streamed = [
                numbers(result, "embedding")[0]
                async for result, error in own.stream_infer(requests())
                if error is None
            ]
            return [numbers(single, "embedding")[0], *streamed]

    return asyncio.run(ask())
    """
    red, green, blue = np.eye(3).tolist()
    assert stock(code) == [blue, red, green, blue]


@pytest.mark.parametrize(
    ("call", "status", "words"),
    [
        (
            "client.infer('nothing', [tensor(pixels(RED))])",
            "NOT_FOUND",
            "no model 'nothing' is served; there is colours",
        ),
        (
            "client.infer('colours', [tensor(pixels(RED))], model_version='9')",
            "NOT_FOUND",
            "no version 9 of 'colours' is served; there is 1",
        ),
        (
            "client.infer('colours', [tensor(pixels(RED))], model_version='newest')",
            "INVALID_ARGUMENT",
            "model_version: 'newest'; expected a whole number of 1 or more",
        ),
        (
            "client.infer('colours', [tensor(pixels(RED), 'input')])",
            "INVALID_ARGUMENT",
            "inputs[0].name: 'input'; expected 'images'",
        ),
        (
            "client.infer('colours', [tensor(pixels(RED)), tensor(pixels(RED), 'more')])",
            "INVALID_ARGUMENT",
            "inputs: 2 tensors ('images', 'more'); expected one, 'images'",
        ),
        (
            "client.infer('colours', [tensor(pixels(RED).astype(np.float32))])",
            "INVALID_ARGUMENT",
            "inputs[0].datatype: 'FP32'; expected UINT8 (pixels) or BYTES (encoded images)",
        ),
        (
            "client.infer('colours', [tensor(pixels(RED, size=31))])",
            "INVALID_ARGUMENT",
            "inputs[0].shape: [1, 31, 31, 3]; the model expects [images, 32, 32, 3]",
        ),
        (
            "client.infer('colours', [tensor(pixels(RED)[0])])",
            "INVALID_ARGUMENT",
            "inputs[0].shape: [32, 32, 3]; the model expects [images, 32, 32, 3]",
        ),
        (
            "client.infer('colours', [tensor(pixels(*[RED] * 65))])",
            "INVALID_ARGUMENT",
            "inputs[0].shape: 65 images; expected 1 to 64",
        ),
        (
            "client.infer('colours', [tensor(encoded(*pixels(RED, RED)).reshape(1, 2))])",
            "INVALID_ARGUMENT",
            "inputs[0].shape: [1, 2]; expected [images] or [images, 1]",
        ),
        (
            "client.infer('colours', [tensor(np.array([b'<html>'], dtype=object))])",
            "INVALID_ARGUMENT",
            "images[0]: not a supported image: an HTML page",
        ),
        (
            "client.infer('colours', [tensor(pixels(RED))], outputs=[wanted('logits')])",
            "INVALID_ARGUMENT",
            "outputs[0].name: 'logits'; expected one of probabilities, embedding",
        ),
        (
            "client.infer('colours', [tensor(pixels(RED))], "
            "outputs=[wanted('probabilities'), wanted('probabilities')])",
            "INVALID_ARGUMENT",
            "outputs[1].name: 'probabilities' is given twice",
        ),
        (
            "client.infer('colours', [tensor(pixels(RED))], outputs=[wanted('probabilities', -1)])",
            "INVALID_ARGUMENT",
            "outputs[0].parameters[classification]: -1; expected a whole number",
        ),
        (
            "client.infer('colours', [tensor(pixels(RED))], timeout=-5)",
            "INVALID_ARGUMENT",
            "parameters[timeout]: -5; expected a whole number of microseconds",
        ),
        (
            "client.get_model_metadata('nothing')",
            "NOT_FOUND",
            "no model 'nothing' is served; there is colours",
        ),
        (
            "client.get_model_config('colours', '0')",
            "INVALID_ARGUMENT",
            "version: '0'; expected a whole number of 1 or more",
        ),
        (
            "client.get_inference_statistics('nothing')",
            "NOT_FOUND",
            "no model 'nothing' is served; there is colours",
        ),
        ("client.unload_model('colours')", "UNIMPLEMENTED", "clients cannot unload models"),
        (
            "client.load_model('colours', config='{}')",
            "INVALID_ARGUMENT",
            "parameters[config]: a model's file alone configures it",
        ),
        ("client.get_system_shared_memory_status()", "UNIMPLEMENTED", ""),
        (
            "client.register_system_shared_memory('mine', '/mine', 1000)",
            "UNIMPLEMENTED",
            "",
        ),
        ("client.get_cuda_shared_memory_status()", "UNIMPLEMENTED", ""),
        ("client.get_trace_settings()", "UNIMPLEMENTED", ""),
    ],
)
def test_an_invalid_call_gets_what_was_found_and_expected(
    stock: Stock, stock_error: type[Any], call: str, status: str, words: str
) -> None:
    with pytest.raises(stock_error) as caught:
        stock(call)
    assert (caught.value.status, words in caught.value.message) == (status, True), caught.value


def test_images_in_shared_memory_are_refused(stock: Stock, stock_error: type[Any]) -> None:
    code = """
    shared = triton.InferInput("images", [1, 32, 32, 3], "UINT8")
    shared.set_shared_memory("mine", 3072)
    client.infer("colours", [shared])
    """
    with pytest.raises(stock_error, match="shared memory is not offered") as caught:
        stock(code)
    assert caught.value.status == "INVALID_ARGUMENT"


def test_statistics_count_images_of_all_callers(stock: Stock, client: Client) -> None:
    client.classify([RED, BLUE])
    code = """
    try:
        client.infer("colours", [tensor(np.array([b"text"], dtype=object))])
    except InferenceServerException:
        pass
    client.infer("colours", [tensor(encoded(*pixels(RED, GREEN, BLUE)))])
    return client.get_inference_statistics("colours", "1", as_json=True)["model_stats"]
    """
    (found,) = stock(code)
    assert (found["name"], found["version"]) == ("colours", "1")
    assert int(found["inference_count"]) == int(found["execution_count"]) == 5
    assert int(found["last_inference"]) > 1_700_000_000_000
    spent = found["inference_stats"]
    counts = {name: int(duration["count"]) for name, duration in spent.items()}
    assert counts == {"success": 5, "fail": 1, "queue": 5, "compute_input": 5, "compute_infer": 5}
    parts = sum(int(spent[name]["ns"]) for name in ("queue", "compute_input", "compute_infer"))
    assert abs(int(spent["success"]["ns"]) - parts) < 10
    (batch,) = found["batch_stats"]
    assert int(batch["batch_size"]) == 1
    assert batch["compute_infer"] == spent["compute_infer"]


def test_several_models_and_versions_are_listed(
    stock_process: Any, start_server: Callable[..., Any], models: Path, stock_error: type[Any]
) -> None:
    address = start_server(models).address
    code = """
    index = client.get_model_repository_index(as_json=True)["models"]
    client.infer("colours", [tensor(pixels(RED))], model_version="1")
    client.infer("colours", [tensor(pixels(RED, BLUE))])
    counted = client.get_inference_statistics(as_json=True)["model_stats"]
    return [
        [(one["name"], one["version"], one["state"]) for one in index],
        client.get_model_metadata("colours", as_json=True)["versions"],
        [(one["name"], one["version"], int(one.get("inference_count", 0))) for one in counted],
        len(client.get_inference_statistics("colours", as_json=True)["model_stats"]),
    ]
    """
    assert stock_process(address, code) == [
        [["colours", "1", "READY"], ["colours", "2", "READY"], ["tags", "1", "READY"]],
        ["1", "2"],
        [["colours", "1", 1], ["colours", "2", 2], ["tags", "1", 0]],
        2,
    ]
    with pytest.raises(stock_error, match="expected one of colours, tags"):
        stock_process(address, "client.infer('', [tensor(pixels(RED))])")


def test_without_reloading_a_call_cannot_load_versions(
    stock_process: Any,
    start_server: Callable[..., Any],
    one_model: Path,
    stock_error: type[Any],
) -> None:
    address = start_server(one_model, reload="off").address
    with pytest.raises(stock_error, match="limelens serve --reload request") as caught:
        stock_process(address, "client.load_model('colours')")
    assert caught.value.status == "UNIMPLEMENTED"


def test_load_scans_the_folder_at_once(
    stock_process: Any,
    start_server: Callable[..., Any],
    tmp_path: Path,
    bundles: Any,
    stock_error: type[Any],
) -> None:
    first = bundles.save(tmp_path, bundles.metadata(), 1)
    address = start_server(tmp_path, reload_s=3600).address
    second = tmp_path / "colours" / "2" / "model.onnx"
    second.parent.mkdir()
    shutil.copy(first, second)
    broken = tmp_path / "broken" / "1" / "model.onnx"
    broken.parent.mkdir(parents=True)
    broken.write_bytes(first.read_bytes()[:400])
    code = """
    before = client.is_model_ready("colours", "2")
    client.load_model("colours")
    return [before, client.is_model_ready("colours", "2")]
    """
    assert stock_process(address, code) == [False, True]
    with pytest.raises(stock_error, match="'broken' version 1 was refused: ") as caught:
        stock_process(address, "client.load_model('broken')")
    assert caught.value.status == "NOT_FOUND"
    with pytest.raises(stock_error, match="no model 'nothing' is served"):
        stock_process(address, "client.load_model('nothing')")
    listed = stock_process(
        address, "return client.get_model_repository_index(as_json=True)['models']"
    )
    states = [(one["name"], one["version"], one["state"], "reason" in one) for one in listed]
    assert states == [
        ("broken", "1", "UNAVAILABLE", True),
        ("colours", "1", "READY", False),
        ("colours", "2", "READY", False),
    ]
