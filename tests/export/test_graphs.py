import json
import sys
from pathlib import Path

import pytest
import torch

from mae.base.errors import UserError
from tests.export.models import export_request, exported, images_of


def test_onnxruntime_runs_batches_of_any_size(graph):
    import onnxruntime

    request, folder, done = graph
    assert done.max_error < 1e-4
    session = onnxruntime.InferenceSession(
        folder / "encoder.onnx", providers=["CPUExecutionProvider"]
    )
    for count in (1, 2, 7):
        images = request.normalize(images_of(request, count))
        tokens, pooled = session.run(["tokens", "pooled"], {"images": images.numpy()})
        expected = request.encoder.forward_features(images)
        torch.testing.assert_close(torch.from_numpy(tokens), expected, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(torch.from_numpy(pooled), expected[:, 0], rtol=1e-4, atol=1e-4)
    given = session.get_modelmeta().custom_metadata_map
    assert json.loads(given["mean"]) == list(request.config.data.mean)
    assert session.get_inputs()[0].shape == ["batch", 3, 32, 48]


def test_onnxruntime_agrees_on_photographs(graph, photographs):
    import onnxruntime

    request, folder, _ = graph
    session = onnxruntime.InferenceSession(
        folder / "encoder.onnx", providers=["CPUExecutionProvider"]
    )
    images = request.normalize(photographs)
    (tokens,) = session.run(["tokens"], {"images": images.numpy()})
    expected = request.encoder.forward_features(images)
    torch.testing.assert_close(torch.from_numpy(tokens), expected, rtol=0, atol=1e-4)


def test_program_runs_batches_of_any_size_and_contains_no_paths(tmp_path, in_process):
    request = export_request(pool="avg")
    assert exported("torch", request, tmp_path / "export").max_error < 1e-5
    program = torch.export.load(tmp_path / "export" / "encoder.pt2").module()
    images = request.normalize(images_of(request, 5))
    features = request.model.encode(images)
    tokens, pooled = program(images)
    torch.testing.assert_close(tokens[:, 1:], features.tokens)
    torch.testing.assert_close(pooled, features.pooled["mean"])
    assert program(images[:1])[0].shape == (1, 5, 32)
    assert not paths_in(tmp_path / "export" / "encoder.pt2")


def test_graph_contains_no_local_paths(graph):
    assert not paths_in(graph[1] / "encoder.onnx")


def paths_in(file):
    content = file.read_bytes()
    here = str(Path(__file__).parents[2]).encode()
    return [part for part in (b"site-packages", here, b"vision_transformer.py") if part in content]


def test_missing_onnxruntime_is_refused(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UserError, match=r"needs onnxruntime: pip install 'maekit\[onnx\]'"):
        exported("onnx", export_request(), tmp_path / "export")
    assert not list(tmp_path.iterdir())
