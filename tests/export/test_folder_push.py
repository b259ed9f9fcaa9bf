import pytest

from mae.base.errors import RunFailed, UserError
from mae.export import graphs, plain, timm
from mae.export import huggingface as hub_files
from mae.export.folder import check_push, hub_code, push
from mae.objectives.mae import export, huggingface


class Hub:
    """Stand-in for HfApi."""

    calls: list[tuple]
    failure: Exception | None = None

    def create_repo(self, repo_id, **options):
        self.calls.append(("create", repo_id, options))
        return f"https://hub/{repo_id}"

    def upload_folder(self, **options):
        if self.failure:
            raise self.failure
        self.calls.append(("upload", options))


@pytest.fixture
def hub(monkeypatch):
    monkeypatch.setattr("huggingface_hub.HfApi", Hub)
    monkeypatch.setattr("huggingface_hub.get_token", lambda: "a token")
    monkeypatch.setattr(Hub, "calls", [], raising=False)
    return Hub


def test_folder_is_pushed_to_a_private_repository(hub, tmp_path):
    assert push(tmp_path, "me/encoder") == "https://hub/me/encoder"
    (_, name, options), (_, upload) = hub.calls
    assert name == "me/encoder" and options == {"private": True, "exist_ok": True}
    assert upload["folder_path"] == tmp_path and upload["repo_id"] == "me/encoder"


def test_failed_upload_keeps_the_export_and_names_the_command(hub, tmp_path, monkeypatch):
    (tmp_path / "model.safetensors").touch()
    monkeypatch.setattr(Hub, "failure", ConnectionError("no route\nto host"))
    with pytest.raises(RunFailed) as error:
        push(tmp_path, "me/encoder")
    assert f"not uploaded: no route; {tmp_path} is complete" in str(error.value)
    assert f"hf upload me/encoder {tmp_path}" in str(error.value)
    assert (tmp_path / "model.safetensors").exists()


@pytest.mark.parametrize(
    ("code", "loads"),
    [
        (timm.CODE, 'timm.create_model("hf-hub:me/x", pretrained=True'),
        (timm.CLASSIFIER_CODE, 'timm.create_model("hf-hub:me/x", pretrained=True'),
        (hub_files.PROCESSOR, 'AutoImageProcessor.from_pretrained("me/x", backend="pil")'),
        (huggingface.PRETRAINING, 'ViTMAEForPreTraining.from_pretrained("me/x")'),
        (export.CODE, 'torch.load(hf_hub_download("me/x", "mae.pth"), weights_only=True)'),
        (graphs.ONNX_CODE, 'InferenceSession(hf_hub_download("me/x", "encoder.onnx"))'),
        (graphs.PROGRAM_CODE, 'torch.export.load(hf_hub_download("me/x", "encoder.pt2"))'),
        (plain.CODE, 'load_plain(snapshot_download("me/x"))'),
        ('ViTModel.from_pretrained("FOLDER/encoder", a=1)', '("me/x", subfolder="encoder", a=1)'),
    ],
)
def test_hub_code_loads_from_the_hub(code, loads):
    text = hub_code(code, "me/x")
    assert loads in text and "FOLDER" not in text
    for name in ("hf_hub_download", "snapshot_download"):
        assert (f"import {name}" in text) == (f"{name}(" in text)


def test_invalid_name_or_missing_login_is_refused(hub, monkeypatch):
    check_push("me/encoder")
    with pytest.raises(UserError, match="--push me//encoder: "):
        check_push("me//encoder")
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    with pytest.raises(UserError, match="not logged in to the hub: run hf auth login"):
        check_push("me/encoder")
