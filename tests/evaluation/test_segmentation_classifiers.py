import numpy as np
import torch

from mae.evaluation.segmentation_classifiers import KNNClassifier, LinearClassifier, fit_linear


def test_linear_scores_equal_scikit_learn():
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(0)
    for classes in ([0, 1, 3], [1, 3]):
        labels = rng.choice(classes, 200)
        tokens = (rng.standard_normal((200, 6)) * 10.0 ** np.arange(-2, 4)).astype(np.float32)
        tokens[:, 0] += labels * 0.01
        linear = fit_linear(tokens, labels, 5, 0.1)
        scaled = (tokens - tokens.mean(0)) / tokens.std(0)
        model = LogisticRegression(C=0.1, max_iter=200).fit(scaled, labels)
        chance = linear.scores(torch.from_numpy(tokens)).softmax(1).numpy()
        np.testing.assert_allclose(chance[:, classes], model.predict_proba(scaled), atol=2e-4)
        assert chance[:, [c for c in range(5) if c not in classes]].max() == 0


def test_knn_classifier_equals_image_knn():
    from mae.evaluation.knn import knn_classes

    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 300)
    train = (rng.standard_normal((300, 8)) + labels[:, None]).astype(np.float32)
    test = (rng.standard_normal((90, 8)) + rng.integers(0, 4, 90)[:, None]).astype(np.float32)
    scores = KNNClassifier(train, labels, 6, "cpu").scores(torch.from_numpy(test))
    assert scores.argmax(1).tolist() == knn_classes(train, labels, test).tolist()
    torch.testing.assert_close(scores.sum(1), torch.ones(90))


def test_a_stored_classifier_is_the_same():
    rng = np.random.default_rng(0)
    tokens = rng.standard_normal((50, 3)).astype(np.float32)
    linear = fit_linear(tokens, rng.integers(0, 2, 50), 3, 0.1)._replace(at_edge=True)
    again = LinearClassifier.unpack(linear.columns())
    assert again[2:] == linear[2:] and isinstance(again.at_edge, bool)
    assert torch.equal(again.weights, linear.weights) and torch.equal(again.bias, linear.bias)
