"""Images that are in training and test data."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mae.data.columns import Column
from mae.data.indexing import build_manifest
from mae.evaluation.comparison import NEAR_BITS, count_seen

CONTENTS = st.lists(
    # Few values of each part, so that many are equal or nearly so.
    st.tuples(st.integers(1, 2), st.sampled_from([0, 1, 1 << NEAR_BITS, 2**32 - 1])),
    max_size=12,
)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory, make_shards):
    return build_manifest([make_shards(tmp_path_factory.mktemp("shards"), 1)])


def with_contents(manifest, contents):
    size, crc = np.array(contents, np.uint32).reshape(-1, 2).T
    cut = len(size) // 3  # in two parts, as those of a mixture
    return manifest.changed(
        size=Column([size[:cut], size[cut:]]), crc=Column([crc[:cut], crc[cut:]])
    )


@given(train=CONTENTS, test=CONTENTS)
def test_test_images_with_length_and_checksum_of_a_training_image_are_counted(
    manifest, train, test
):
    found = count_seen(with_contents(manifest, train), with_contents(manifest, test))
    assert found == sum(one in train for one in test)
