"""Lines of `mae embed` on its neighbours and its comparison with PCA."""

from mae.similarity.embedding import neighbours_line
from mae.similarity.figures import _verdict


def figures(recall, same_class):
    ours = {"recall": 0.5, "trustworthiness": 0.9, "same_class": 0.4}
    theirs = {"recall": recall, "trustworthiness": 1.0, "same_class": same_class}
    return {
        "map": {"pca": ours},
        "reduction": {"vectors": ours, "pca of pixels": theirs},
    }


def test_the_line_names_the_neighbours_of_the_table_and_those_of_the_map():
    line = "10 nearest neighbours of each of 3,000 images (for the map 91 are searched)"
    assert neighbours_line(10, 91, 3000) == line
    assert neighbours_line(10, 10, 3000) == "10 nearest neighbours of each of 3,000 images"


def test_what_pca_must_win_is_not_held_against_the_encoder():
    circular = _verdict(figures(recall=0.9, same_class=0.2))
    assert "as it must, being of pixels" in circular and "train" not in circular
    assert "train the encoder longer" in _verdict(figures(recall=0.9, same_class=0.4))
    assert _verdict(figures(recall=0.3, same_class=0.2)) == ""
