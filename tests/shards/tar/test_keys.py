import pytest

from recap_fast.shards.tar.keys import inner_keys, kind_of, split_name


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (b"000.jpg", (b"000", b"jpg")),
        (b"./a/b.JPG", (b"a/b", b"JPG")),
        (b"/abs/b.jpg", (b"abs/b", b"jpg")),
        (b"v1.0/img.01/a.b.jpg", (b"v1.0/img.01/a", b"b.jpg")),
        (b"README", None),
        (b".hidden.jpg", None),
        (b"a/._000.jpg", None),
        (b"__index__.__", None),
    ],
)
def test_split_name(name, expected):
    assert split_name(name) == expected


@pytest.mark.parametrize(
    ("extensions", "expected"),
    [
        pytest.param("05.jpg 05.txt 05.json 06.jpg", "05 05 05 06", id="dates"),
        pytest.param("05.jpg 06.png", "05 06", id="numbers without texts"),
        pytest.param("5.jpg", "5", id="one number"),
        pytest.param("v2.jpg v2.meta.json v3.png v3.cls", "v2 v2 v3 v3", id="texts of their own"),
        pytest.param("a.b.jpg a.b.txt a.c.jpg a.d.txt", "a.b a.b a.c a.d", id="several dots, an image that is lost"),
        pytest.param("left.jpg right.jpg json", None, id="two images of one sample"),
        pytest.param("left.jpg right.jpg", None, id="two names"),
        pytest.param("input_image.jpg", None, id="one name"),
        pytest.param("05.jpg 05.txt json", None, id="a file of the whole sample"),
        pytest.param("0.jpg caption.txt", None, id="a text of the whole sample"),
        pytest.param("05.txt 05.json", None, id="no image"),
        pytest.param("jpg txt json", None, id="img2dataset"),
    ],
)
def test_what_belongs_to_the_key(extensions, expected):
    found = inner_keys([extension.encode() for extension in extensions.split()])
    assert found == (None if expected is None else [inner.encode() for inner in expected.split()])


def test_names_of_many_dots_take_no_time():
    dots = b"." * 1_000_000
    assert inner_keys([b"a.jpg", b"a.txt" + dots]) is None


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        (b"a/README.MD", ".md"),
        (b"LICENSE", "without extension"),
        (b"a.b/c", "without extension"),
        (b"a/.DS_Store", "hidden"),
        (b"__index__.__", "hidden"),
        (b"a.", "without extension"),
        (b"a.\xff", ".\\xff"),
    ],
)
def test_kinds_of_files_that_belong_to_no_image(name, kind):
    assert kind_of(name) == kind
