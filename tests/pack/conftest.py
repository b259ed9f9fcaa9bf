import pytest
from PIL import Image


@pytest.fixture
def save(tmp_path, make_image):
    """`save(name, number=0)` writes a small image below `tmp_path/images`, by its extension."""

    def save(name, number=0):
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(make_image(number, (12, 16))).save(path)
        return path

    return save
