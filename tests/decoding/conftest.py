"""Fixtures of the decoding tests."""

import pytest
from PIL import Image


@pytest.fixture(scope="session")
def picture(make_image):
    """RGB image with structure, [60 h, 80 w]."""
    return Image.fromarray(make_image(7, (60, 80)))
