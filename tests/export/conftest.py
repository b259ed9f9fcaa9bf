import pytest
import torch

from mae.export.folder import export_folder
from mae.export.graphs import write_onnx
from tests.export.models import NO_FACTS, export_request
from tests.export_checks import run_here


@pytest.fixture(scope="session")
def photographs(shared_data, tmp_path_factory):
    """50 real photographs, uint8 [50 3 32 48]."""
    from mae.config.sections import Config, DataConfig
    from mae.data.opening import open_images
    from mae.data.transform import stack
    from mae.data.views import CentredViews

    config = Config(data=DataConfig(index_dir=tmp_path_factory.mktemp("index")))
    images = open_images([f"{shared_data}/clothing/val-000000.tar"], "photographs", config)
    views = CentredViews(images, (32, 48), 0.875)
    return stack([views.view(i) for i in range(50)])


@pytest.fixture(scope="session")
def graph(tmp_path_factory):
    """(request, folder, result) of an ONNX export, which takes seconds."""
    pytest.importorskip("onnxruntime")
    request = export_request(img_size=(32, 48), kwargs={"reg_tokens": 2})
    folder = tmp_path_factory.mktemp("onnx") / "export"
    images = torch.randint(0, 256, (3, 3, 32, 48), dtype=torch.uint8)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mae.export.folder.run_check", run_here)
        done = export_folder(write_onnx, request, images, NO_FACTS, "3 images of noise", folder)
    return request, folder, done
