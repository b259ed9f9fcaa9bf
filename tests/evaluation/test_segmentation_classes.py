from mae.evaluation.segmentation_classes import class_notes


def test_classes_hardly_there_are_said():
    row = {"name": "a", "test_images": 50, "train_patches": 9, "predicted": 5}
    rows = [
        row,
        {**row, "name": "rare", "test_images": 9},
        {**row, "name": "gone", "test_images": 0},
        {**row, "name": "thin", "train_patches": 0, "predicted": 0},
        {**row, "name": "missed", "predicted": 0},
    ]
    notes = list(class_notes(rows))
    assert [note.rpartition(": ")[2] for note in notes] == ["gone", "rare", "missed", "thin"]
    assert list(class_notes([row])) == []
