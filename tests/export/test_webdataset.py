import json
import tarfile

import pytest
from support import tars
from support.exports import below, make_output, run_export
from support.shard_files import webdataset_members, write_tar
from support.tars import entry
from webdataset import tariterators

from recap_fast.export.webdataset import pattern_of
from recap_fast.records import Selection

JPG = b"image"


@pytest.fixture
def made(tmp_path):
    """The output of two tars as img2dataset writes them."""
    write_tar(tmp_path / "in/00000.tar", webdataset_members(5))
    write_tar(tmp_path / "in/00001.tar", webdataset_members(3, first=5))
    return make_output(tmp_path / "out", tmp_path / "in")


def read(path):
    """As webdataset.WebDataset does, which leaves the file open."""
    with path.open("rb") as stream:
        source = [{"url": str(path), "stream": stream}]
        return list(tariterators.group_by_keys(tariterators.tar_file_expander(source)))


def one_tar(tmp_path, *entries, form=tarfile.GNU_FORMAT, change=lambda row: None, **options):
    """What becomes of a tar; its path before and after, and the result."""
    before = tars.write(tmp_path / "in/00000.tar", *entries, form=form)
    output = make_output(tmp_path / "out", tmp_path / "in", change=change)
    result = run_export(output, "webdataset", tmp_path / "tars", **options)
    return before, tmp_path / "tars/00000.tar", result


def test_webdatasets_reader_reads_what_img2dataset_wrote_and_the_captions(made, tmp_path):
    result = run_export(made, "webdataset", tmp_path / "tars", columns="uid,num_tokens")
    for name in ("00000", "00001"):
        before, after = read(tmp_path / f"in/{name}.tar"), read(tmp_path / f"tars/{name}.tar")
        for index, (old, new) in enumerate(zip(before, after, strict=True)):
            fields = {"re_caption": f"caption {index} of {name}", "org_caption": json.loads(old["json"])["caption"]}
            assert json.loads(new["json"]) == json.loads(old["json"]) | fields | {"num_tokens": None}
            assert new["json"].startswith(old["json"][:-1])
            assert all(new[name] == old[name] for name in ("__key__", "jpg", "txt"))
            assert new.keys() == old.keys()
    assert (result.shards, result.counts["samples"], result.counts["captions"]) == (2, 8, 8)
    assert result.verified == (
        "24 members read back: 16 are byte for byte those of the inputs, headers and all; 8 are as they were written"
    )
    assert result.advice[1] == (
        "  python -m open_clip_train.main --dataset-type webdataset "
        f"--train-data '{tmp_path}/tars/{{00000..00001}}.tar' "
        "--train-num-samples 8 --json-text-key 're_caption;org_caption' --json-text-key-probs 0.2 0.8"
    )


def test_one_drawn_caption_is_the_txt_and_the_json_stays(made, tmp_path):
    result = run_export(made, "webdataset", tmp_path / "tars", mix_p=0.5, seed=3)
    texts = [sample["txt"].decode() for name in ("00000", "00001") for sample in read(tmp_path / f"tars/{name}.tar")]
    ours = [f"caption {index} of {name}" for name, num in (("00000", 5), ("00001", 3)) for index in range(num)]
    assert all(text in (own, f"alt {number}") for number, (text, own) in enumerate(zip(texts, ours, strict=True)))
    assert 0 < sum(text.startswith("alt") for text in texts) < 8
    names = {f"{number:09d}.txt" for number in range(8)}
    for name in ("00000", "00001"):
        assert tars.rest(tmp_path / f"in/{name}.tar", names) == tars.rest(tmp_path / f"tars/{name}.tar", names)
    assert "--json-text-key" not in "".join(result.advice)


def test_samples_without_a_caption_stay_without_one_or_are_left_out(tmp_path):
    members = [(name, b"" if name == "000000001.jpg" else content) for name, content in webdataset_members(3)]
    write_tar(tmp_path / "in/00000.tar", members)
    output = make_output(tmp_path / "out", tmp_path / "in")
    result = run_export(output, "webdataset", tmp_path / "all")
    assert [json.loads(sample["json"])["re_caption"] for sample in read(tmp_path / "all/00000.tar")] == [
        "caption 0 of 00000",
        None,
        "caption 2 of 00000",
    ]
    assert (result.counts["samples"], result.counts["captions"]) == (3, 2)
    run_export(output, "webdataset", tmp_path / "txt", caption_in="txt")
    assert [sample.get("txt") for sample in read(tmp_path / "txt/00000.tar")][1] is None
    result = run_export(output, "webdataset", tmp_path / "some", skip="failed")
    assert [sample["__key__"] for sample in read(tmp_path / "some/00000.tar")] == ["000000000", "000000002"]
    assert (result.counts["skipped: failed"], result.counts["members removed"]) == (1, 3)


def test_a_tar_of_images_alone_gets_jsons_beside_them(tmp_path):
    entries = [entry(f"./{name}.jpg", JPG * 300, mode=0o600) for name in ("a", "b", "d/c")]
    before, after, _ = one_tar(tmp_path, *entries)
    assert [name for name, _ in tars.contents(after)] == [
        *("./a.jpg", "./a.json", "./b.jpg", "./b.json", "./d/c.jpg", "./d/c.json"),
    ]
    assert [sample["__key__"] for sample in read(after)] == ["./a", "./b", "./d/c"]
    assert tars.rest(after, {"./a.json", "./b.json", "./d/c.json"}) == tars.rest(before, ())
    with tarfile.open(after) as tar:
        assert tar.getmember("./a.json").mode == 0o600


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_odd_members_stay_byte_for_byte(tmp_path, form):
    long = f"{'d/' * 60}{'n' * 90}"
    entries = [
        entry("README.md", b"read me"),
        entry("d", type=tarfile.DIRTYPE),
        entry("d/.hidden", b"h"),
        entry("a.jpg", JPG),
        entry("a.json", b'{"url": "x"}', mtime=1_500_000_000, uname="me"),
        entry(f"{long}.jpg", JPG * 2),
        entry(f"{long}.json", b'{"url": "y"}'),
        entry("device", type=tarfile.CHRTYPE, devmajor=1, devminor=3),
        entry("a.jpg", JPG * 3),  # the same key once more
        entry("a.json", b'{"url": "z"}'),
        entry("copy.txt", type=tarfile.SYMTYPE, linkname="README.md"),
        entry("x.y.jpg", JPG),
    ]
    before, after, result = one_tar(tmp_path, *entries, form=form)
    assert not result.problems
    changed = {"a.json", f"{long}.json", "x.json", "x.y.json"}
    assert tars.rest(after, changed) == tars.rest(before, changed)
    jsons = [json.loads(content) for name, content in tars.contents(after) if name in changed]
    assert [fields.get("url") for fields in jsons] == ["x", "y", "z", None]
    assert [fields["re_caption"] for fields in jsons] == [f"caption {index} of 00000" for index in range(4)]
    with tarfile.open(after) as tar:
        (first, *_) = (info for info in tar if info.name == "a.json")
    assert (first.mtime, first.uname) == (1_500_000_000, "me")


def test_samples_whose_members_lie_among_each_other(tmp_path):
    suffixes = ("jpg", "txt", "json")
    entries = [entry(f"{key}.{suffix}", f"{key} {suffix}".encode()) for suffix in suffixes for key in "abc"]
    _, after, _ = one_tar(tmp_path / "all", *entries)
    made = tars.by_name(after)
    assert json.loads(made["c.json"]) == {"json": "c json", "re_caption": "caption 2 of 00000", "org_caption": "c txt"}

    def fail(row):
        if row["key"] == "b":
            row.update(re_caption=None)

    before, after, result = one_tar(tmp_path / "some", *entries, change=fail, skip="failed")
    assert result.counts["skipped: failed"] == 1
    assert [name for name, _ in tars.contents(after)] == [name for name, _ in tars.contents(before) if name[0] != "b"]


def test_several_images_of_a_sample_and_the_captions_of_each(tmp_path):
    entries = [entry("a.left.jpg", JPG), entry("a.right.jpg", JPG * 2), entry("a.json", b"{}"), entry("b.jpg", JPG)]
    before = tars.write(tmp_path / "in/00000.tar", *entries)
    output = make_output(tmp_path / "out", tmp_path / "in", selection=Selection(images="all"))
    result = run_export(output, "webdataset", tmp_path / "tars")
    assert (result.counts["captions"], "--train-num-samples 2 " in result.advice[1]) == (3, True)
    made = tars.by_name(tmp_path / "tars/00000.tar")
    captions = [f"caption {index} of 00000" for index in range(3)]
    assert json.loads(made["a.json"])["re_captions"] == captions[:2]
    assert [json.loads(made[name])["re_caption"] for name in ("a.json", "b.json")] == [captions[0], captions[2]]
    assert tars.rest(before, {"a.json"}) == tars.rest(tmp_path / "tars/00000.tar", {"a.json", "b.json"})


def test_links_stay_unless_what_they_stand_for_would_change(tmp_path):
    link = entry("b.jpg", type=tarfile.LNKTYPE, linkname="a.jpg")
    entries = [entry("a.jpg", JPG), entry("a.json", b"{}"), link, entry("b.json", b"{}")]
    before, after, _ = one_tar(tmp_path / "kept", *entries)
    assert tars.rest(before, {"a.json", "b.json"}) == tars.rest(after, {"a.json", "b.json"})
    of_json = entry("b.json", type=tarfile.LNKTYPE, linkname="a.json")
    _, after, result = one_tar(tmp_path / "json", *entries[:3], of_json)
    assert not after.exists()
    assert result.problems == [
        f"{tmp_path}/json/in/00000.tar has a link to 'a.json', which would change: extract the tar and pack it anew"
    ]
    _, after, _ = one_tar(tmp_path / "txt", *entries[:3], of_json, caption_in="txt")
    made = tars.by_name(after)
    assert (made["a.json"], made["b.json"]) == (b"{}", b"{}")
    assert (made["a.txt"], made["b.txt"]) == (b"caption 0 of 00000", b"caption 1 of 00000")
    _, _, result = one_tar(tmp_path / "gone", *entries, skip="failed", change=lambda row: row.update(re_caption=None))
    assert "has a link to 'a.jpg', which would change" in result.problems[0]


def test_a_tar_that_is_cut_or_damaged_is_refused_and_the_others_are_exported(made, tmp_path):
    path = tmp_path / "in/00000.tar"
    content = path.read_bytes()
    whole = run_export(made, "webdataset", tmp_path / "whole")
    assert whole.exit_code == 0
    for number, damaged in enumerate((content[:3000], content[:600] + b"x" * 512 + content[1112:])):
        path.write_bytes(damaged)
        result = run_export(made, "webdataset", tmp_path / f"tars{number}")
        assert (result.shards, result.exit_code) == (1, 1)
        (problem,) = result.problems
        assert problem.startswith(f"{path} ")
        assert problem.endswith("replace it with a whole one, and run again with --redo-changed")
        assert list(below(tmp_path / f"tars{number}")) == ["00001.tar"]


def test_another_tar_in_the_place_of_the_one_that_was_captioned_is_refused(made, tmp_path):
    write_tar(tmp_path / "in/00000.tar", webdataset_members(5, first=1))
    write_tar(
        tmp_path / "in/00001.tar", [(n, c.replace(b"image", b"imagE")) for n, c in webdataset_members(3, first=5)]
    )
    result = run_export(made, "webdataset", tmp_path / "tars")
    assert [" has another " in problem for problem in result.problems] == [True, True]
    assert below(tmp_path / "tars") == {}


def test_a_tar_that_was_copied_is_the_same_tar(made, tmp_path):
    content = (tmp_path / "in/00000.tar").read_bytes()
    (tmp_path / "in/00000.tar").unlink()
    (tmp_path / "there").mkdir()
    (tmp_path / "there/00000.tar").write_bytes(content)
    (tmp_path / "in/00001.tar").rename(tmp_path / "there/00001.tar")
    result = run_export(made, "webdataset", tmp_path / "tars", relocate=[f"{tmp_path}/in={tmp_path}/there"])
    assert (result.shards, result.problems) == (2, [])


def test_nothing_is_compared_where_that_is_not_asked_for(made, tmp_path):
    result = run_export(made, "webdataset", tmp_path / "tars", verify=False)
    assert result.verified == "nothing; 24 members were exported with --no-verify, and not read back"


def test_what_was_compared_is_told_apart_from_what_was_not(made, tmp_path):
    run_export(made, "webdataset", tmp_path / "tars", verify=False, shards=[tmp_path / "in/00000.tar"])
    assert run_export(made, "webdataset", tmp_path / "tars").verified == (
        "9 members read back: 6 are byte for byte those of the inputs, headers and all; 3 are as they were written; "
        "15 members were exported with --no-verify, and not read back"
    )


@pytest.mark.parametrize(
    ("names", "pattern"),
    [
        (["00000"], "00000.tar"),
        (["00003", "00004", "00005"], "{00003..00005}.tar"),
        (["part/00003", "part/00004"], "part/{00003..00004}.tar"),
        (["00000", "00002"], "{00000,00002}.tar"),
        (["a", "b-1"], "{a,b-1}.tar"),
        ([f"x{number}" for number in range(0, 60, 2)], "{x0,x2,...}.tar"),
    ],
)
def test_the_pattern_of_the_tars(names, pattern):
    assert pattern_of(names) == pattern
