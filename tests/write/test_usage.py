import pytest
from support.guard import in_processes
from support.ledgers import open_ledger
from support.runs import write_pictures

from recap_fast.write import run_file
from recap_fast.write.output_folder import RUN_FILE, OutputFolder
from recap_fast.write.run_file import Usage, read_run
from recap_fast.write.usage import add_usage, rates, record_usage, usage_of
from recap_fast.write.workers import Work

H100, CPU = Usage(1, 900, 1800.0, is_gpu=True), Usage(1, 30, 60.0, is_gpu=False)


@pytest.fixture
def output(tmp_path):
    write_pictures(tmp_path / "in", 2, 1)
    return open_ledger(tmp_path / "out", tmp_path / "in/*.tar").output


def record_often(address):
    for _ in range(5):
        record_usage(OutputFolder.at(address), {"H100": H100})


def test_processes_that_end_at_the_same_moment_are_all_counted(output):
    in_processes(*[lambda: record_often(output.address)] * 3)
    assert read_run(output).usage == {"H100": Usage(15, 13500, 27000.0, is_gpu=True)}


def test_later_runs_keep_it(output, tmp_path):
    record_usage(output, {"H100": H100})
    write_pictures(tmp_path / "in", 3, 1)
    open_ledger(tmp_path / "out", tmp_path / "in/*.tar")
    run = read_run(output)
    assert (len(run.shards), run.usage) == (3, {"H100": H100})


@pytest.mark.parametrize(("device", "used"), [("", {}), ("H100", {"H100": Usage(1, 5, 2.0, is_gpu=True)})])
def test_a_process_has_used_a_device_once_it_is_known(device, used):
    state = "running" if device else "starting"
    work = Work(
        host="h", pid=1, part="1/1", device=device, is_gpu=True, started_s=0.0, state=state, held_s=2.0, captioned=5
    )
    assert usage_of(work) == used


def test_usage_is_added_by_device_and_rates_are_told_for_gpus_and_cpus():
    both = add_usage({"H100": H100}, {"H100": H100, "H200": H100, "cpu": CPU})
    assert both == {"H100": Usage(2, 1800, 3600.0, is_gpu=True), "H200": H100, "cpu": CPU}
    assert list(map(str, rates(both))) == ["1,800 images per GPU-hour", "1,800 images per hour"]
    assert rates({"H100": Usage(1, 0, 9.0, is_gpu=True)}) == []


def test_where_it_cannot_be_recorded_there_is_a_warning_and_no_error(output, caplog, monkeypatch):
    monkeypatch.setattr(run_file, "NUM_ATTEMPTS", 1)
    monkeypatch.setattr(run_file, "LONGEST_PAUSE_S", 0.0)
    monkeypatch.setattr(type(output.store), "replace", lambda *_: False)
    record_usage(output, {"H100": H100})
    assert "the time that this process held its device is not recorded: " in caplog.text


def test_an_output_that_is_gone_is_no_news(output, caplog):
    output.store.delete([RUN_FILE])
    record_usage(output, {"H100": H100})
    assert caplog.text == ""


def test_nothing_used_writes_nothing(output):
    before = output.store.stat(RUN_FILE)
    record_usage(output, {})
    assert output.store.stat(RUN_FILE) == before
