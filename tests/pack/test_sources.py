import pytest

from mae.base.errors import UserError
from mae.pack.image_sources import Source
from mae.pack.listing import PackRequest
from mae.pack.sources import list_sources


def test_folder_is_listed(tmp_path, save):
    save("a.jpg")
    listing = list_sources(PackRequest((str(tmp_path / "images"),)))
    assert [*listing.sources] == [Source("a.jpg", "jpg", None)]


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        (("{}/nope",), "nope: no such folder"),
        (("{}/nope", "{}/a.tar"), "nope: no such folder"),
        (
            ("{}", "{}/a.tar"),
            "only tars can be packed together; give one folder, table or data set",
        ),
        ((f"{{}}/{'n' * 300}",), "nnn: cannot be read: File name too long"),
        (("{}/cat", "{}/dog"), "cat: only one folder is packed: give "),
        (("{}/cat", "{}/a.tar"), "cat: only tars can be packed together"),
        (("torchvision:MNIST", "{}/a.tar"), "only tars can be packed together"),
        (("{}/a.zip",), "a.zip: is an archive: unpack it and give the folder"),
        (("{}/a.txt",), "a.txt: cannot be packed: expected a folder of images, .csv"),
        (("{}/a.jpg",), "a.jpg: is a single image: give its folder"),
        (("{}/b.zip",), "b.zip: no such .zip file, did you mean a.zip"),
        (("{}/gone/a.csv",), "a.csv: no such .csv table: there is no folder .*/gone"),
        (("{}/a.png",), "a.png: no such image, did you mean a.jpg"),
        (("s3://b/photos",), "s3://b/photos: cannot be packed: only .tar"),
        (("{}/none.tar",), "none.tar"),
        (("{}/none.csv",), "none.csv: no such .csv table"),
    ],
)
def test_unusable_sources_are_refused(tmp_path, sources, message):
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
    for name in ("a.zip", "a.txt", "a.jpg"):
        (tmp_path / name).touch()
    with pytest.raises(UserError, match=message) as error:
        list_sources(PackRequest(tuple(source.format(tmp_path) for source in sources)))
    assert len(str(error.value).splitlines()) == 1
