import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recap_fast.errors import ConfigError
from recap_fast.inputs import Inputs, Source
from recap_fast.write import units
from recap_fast.write.register import Register, Registration

ROOT = "/data"


@pytest.fixture(autouse=True)
def small_units(monkeypatch):
    monkeypatch.setattr(units, "UNIT_IMAGES", 3)


def folder(url, *paths):
    return Source(url, "folder", tuple((path, "1:1") for path in sorted(paths)))


def folder_of_5(url):
    return folder(url, *"abcde")


def tar(url):
    return Source(url, "tar")


def add(register, *sources, gone=(), prune=False):
    """The register afterwards, and the run's shards. Images at the URLs in `gone` are not there."""

    def versions_of(url, paths):
        return [None if f"{url}/{path}" in gone else "1:1" for path in paths]

    registration = Registration(register, versions_of, prune)
    shards = registration.add(Inputs(ROOT, sources))
    return registration.result, shards


def paths(shards):
    return {shard.name: [file and file.path for file in shard.files] for shard in shards}


def test_that_units_of_a_folder_hold_its_images_in_order():
    _, shards = add(Register(ROOT), folder(ROOT, *"abcdefg"))
    assert paths(shards) == {"00000": ["a", "b", "c"], "00001": ["d", "e", "f"], "00002": ["g"]}


def test_that_new_images_make_new_units_after_the_last():
    register, _ = add(Register(ROOT), folder(ROOT, *"bdf"))
    _, shards = add(register, folder(ROOT, *"abcdefg"))
    assert paths(shards) == {"00000": ["b", "d", "f"], "00001": ["a", "c", "e"], "00002": ["g"]}


def test_that_a_process_which_lists_early_names_later_has_the_units_in_the_same_order():
    register, first = add(add(Register(ROOT), folder(ROOT, *"bcdefg"))[0], folder(ROOT, *"abcdefg"))
    _, second = add(register, folder(ROOT, *"abcdefg"))
    assert [shard.name for shard in first] == [shard.name for shard in second] == ["00000", "00001", "00002"]


def test_that_shards_are_in_the_order_in_which_they_came():
    register, _ = add(Register(ROOT), tar("/data/5.tar"), folder("/data/x", "a"))
    _, shards = add(register, folder("/data/x", "0", "a"), tar("/data/1.tar"), tar("/data/5.tar"))
    assert [shard.name for shard in shards] == ["5", "x/00000", "x/00001", "1"]


@given(st.lists(st.sets(st.sampled_from("abcdefghij"), min_size=1), min_size=1, max_size=5))
def test_that_units_never_change_and_every_image_is_in_one(listings):
    register = Register(ROOT)
    for listing in listings:
        before = register
        register, shards = add(register, folder(ROOT, *listing))
        assert before.units.items() <= register.units.items()
        assert list(before.shards) == list(register.shards)[: len(before.shards)]
        located = [file.path for shard in shards for file in shard.files]
        assert len(located) == len(set(located))
        assert set(located) >= listing


def test_that_patterns_of_one_folder_add_up():
    register, _ = add(Register(ROOT), folder(ROOT, "1.jpg", "2.jpg"))
    register, shards = add(register, folder(ROOT, "3.png"))
    assert paths(shards) == {"00001": ["3.png"]}
    _, shards = add(register, folder(ROOT, "1.jpg", "2.jpg", "3.png"))
    assert paths(shards) == {"00000": ["1.jpg", "2.jpg"], "00001": ["3.png"]}


@pytest.mark.parametrize("first", ["/data", "/data/s"])
@pytest.mark.parametrize("second", ["/data", "/data/s"])
def test_that_an_image_is_the_same_by_any_folder_above_it(first, second):
    listings = {"/data": "s/a.jpg", "/data/s": "a.jpg"}
    register, one = add(Register(ROOT), folder(first, listings[first]))
    register, two = add(register, folder(second, listings[second]))
    assert one == two
    assert len(register.shards) == 1


@pytest.mark.parametrize("source", ["/data", "/data/s"])
def test_that_a_unit_whose_images_are_all_gone_is_still_in_the_run(source):
    register, _ = add(Register(ROOT), folder(ROOT, "s/a.jpg", "s/b.jpg"))
    gone = {"/data/s/a.jpg", "/data/s/b.jpg"}
    other = folder(source, "c.jpg")
    _, shards = add(register, other, gone=gone)
    assert [[file.version for file in shard.files] for shard in shards] == [[None, None], ["1:1"]]
    pruned, shards = add(register, other, gone=gone, prune=True)
    assert list(shards[0].files) == [None, None]
    _, shards = add(pruned, folder(ROOT, "c.jpg"), gone=gone)
    assert list(shards[0].files) == [None, None]  # its rows may still be there: a run was killed


def test_that_images_outside_the_source_are_not_asked_for():
    register, _ = add(Register(ROOT), folder(ROOT, "s/a.jpg"))
    _, shards = add(register, folder("/data/t", "b.jpg"), gone={"/data/s/a.jpg"})
    assert paths(shards) == {"t/00000": ["b.jpg"]}


def test_that_a_pruned_image_that_comes_back_is_a_new_one():
    register, _ = add(Register(ROOT), folder(ROOT, "a.jpg", "b.jpg"))
    register, _ = add(register, folder(ROOT, "b.jpg"), gone={"/data/a.jpg"}, prune=True)
    _, shards = add(register, folder(ROOT, "a.jpg", "b.jpg"))
    assert paths(shards) == {"00000": [None, "b.jpg"], "00001": ["a.jpg"]}
    assert [file.key for shard in shards for file in shard.files if file] == ["b", "a"]


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["", "s/", "t/"]), st.sampled_from("ab"), st.sampled_from(["", ".jpg", ".PNG", ".a.jpg"])
        )
    )
)
def test_that_keys_are_unique(parts):
    register = Register(ROOT)
    for part in parts:
        register, _ = add(register, folder(ROOT, "".join(part)))
    keys = [unit.key(place) for unit in register.units.values() for place in unit.places]
    assert len(set(keys)) == len(keys) == len(set(parts))


def test_what_a_tar_and_a_unit_of_one_name_are_called():
    _, shards = add(Register(ROOT), tar("/data/00000.tar"), folder(ROOT, "a.jpg"))
    assert [shard.name for shard in shards] == ["00000", "images-00000"]
    register, shards = add(Register(ROOT), folder(ROOT, "a.jpg"), tar("/data/00000.tar"))
    assert [shard.name for shard in shards] == ["00000", "00000-2"]
    _, shards = add(register, tar("/data/00000.parquet"), folder(ROOT, "b.jpg"))
    assert [shard.name for shard in shards] == ["00000-3", "00001"]


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize(("one", "other"), [("a", "A"), ("STRASSE", "straße"), ("\u00e9", "e\u0301"), ("x.y", "X.y")])
def test_that_no_two_names_are_one_on_a_disk_that_does_not_tell_them_apart(one, other, late):
    sources = [kind(f"/data/{name}") for name in (one, other) for kind in (lambda url: tar(f"{url}.tar"), folder_of_5)]
    register = Register(ROOT)
    for given_now in [sources[:2], sources] if late else [sources]:
        register, shards = add(register, *given_now)
    names = [shard.name for shard in shards]
    assert len(names) == len({unicodedata.normalize("NFC", name.casefold()) for name in names}) == 6
    assert [shard.name for shard in add(register, *sources)[1]] == names


def test_names_of_inputs_outside_the_first_root():
    register, _ = add(Register("/data/a"), tar("/data/a/0.tar"), folder("/data/a", "x.jpg"))
    register, shards = add(register, tar("/data/b/0.tar"), folder("/data/b", "x.jpg"))
    assert [shard.name for shard in shards] == ["b/0", "b/00000"]
    assert shards[1].files[0].file_name == "../b/x.jpg"


class TestRelocated:
    REGISTER = add(Register(ROOT), tar("/data/x/0.tar"), folder("/data/x/y", "a.jpg"), tar("/data/z/1.tar"))[0]

    def urls(self, *moves):
        register = self.REGISTER
        for old, new in moves:
            register = register.relocated(old, new)
        return [register.root, *register.shards.values()]

    def test_that_what_lay_in_a_folder_lies_in_another(self):
        assert self.urls(("/data/x", "/new")) == ["/data", "/new/0.tar", "/new/y", "/data/z/1.tar"]
        assert self.urls(("/data", "s3://b/c")) == ["s3://b/c", "s3://b/c/x/0.tar", "s3://b/c/x/y", "s3://b/c/z/1.tar"]
        assert self.urls(("/data/x", "/data")) == ["/data", "/data/0.tar", "/data/y", "/data/z/1.tar"]
        assert self.urls(("/data/x/0.tar", "/new/2.tar")) == ["/data", "/new/2.tar", "/data/x/y", "/data/z/1.tar"]

    @pytest.mark.parametrize("again", [tar("/new/0.tar"), folder("/new", "y/a.jpg")])
    def test_that_what_is_known_in_both_folders_is_refused(self, again):
        register, _ = add(self.REGISTER, again)
        with pytest.raises(
            ConfigError, match=r"--relocate /data/x=/new: the output folder has rows of /new/.* already"
        ):
            register.relocated("/data/x", "/new")

    def test_that_a_folder_with_a_longer_name_is_another(self):
        with pytest.raises(ConfigError, match="no input of this output folder lay in /dat"):
            self.urls(("/dat", "/new"))

    @pytest.mark.parametrize("move", [("/data", "/new"), ("/data", "/data/old"), ("/data/x", "/data")])
    def test_that_the_same_command_again_moves_nothing(self, move):
        assert self.urls(move) == self.urls(move, move)
