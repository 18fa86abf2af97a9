"""The driver without Ray: processes beside this one, which may die, and this one goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pytest

from pipeline.engine import worker_process
from pipeline.engine.driver import INLINE, Pass
from pipeline.engine.guard import StageFailed
from pipeline.engine.inline import DoesNotStart, InlineDriver
from pipeline.engine.node import Node
from pipeline.engine.stage_state import StageState, stage_states
from pipeline.engine.worker_process import end_ahead, start_ahead

END = Node("write", "inline_stages:Receipts")
pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def driver() -> Iterator[InlineDriver]:
    made = InlineDriver(cpus=2)
    yield made
    made.close()


def blocks(*sizes: int) -> list[pa.Table]:
    starts = [sum(sizes[:n]) for n in range(len(sizes))]
    return [
        pa.table({"index": list(range(start, start + size))})
        for start, size in zip(starts, sizes, strict=True)
    ]


def deadly(poison: int) -> Node:
    return Node("deadly", "deadly_stage:DeadlyStage", {"poison": poison})


def indexes(receipts: list[dict]) -> list[list[int]]:
    return [receipt["indexes"] for receipt in receipts]


def ended(pid: int) -> bool:
    with suppress(ProcessLookupError):
        os.kill(pid, 0)
        return False
    return True


def test_blocks_go_through_one_process_beside_this_one_in_their_order(driver):
    found = list(driver.receipts(Pass(blocks(2, 1, 3), [deadly(-1), END])))
    assert indexes(found) == [[0, 1], [2], [3, 4, 5]]
    assert len({receipt["pid"] for receipt in found}) == 1
    assert found[0]["pid"] != os.getpid()
    assert driver.busy().keys() == {"deadly", "write"}


def test_a_second_pass_is_in_the_same_process(driver):
    first, second = (
        [receipt["pid"] for receipt in driver.receipts(Pass(blocks(1), [END]))] for _ in range(2)
    )
    assert first == second


def test_the_process_is_held_to_its_threads():
    driver = InlineDriver(threads=3)
    assert [r["threads"] for r in driver.receipts(Pass(blocks(1), [END]))] == ["3"]
    driver.close()


def test_a_process_that_dies_of_a_block_costs_that_block(driver):
    found = list(driver.receipts(Pass(blocks(2, 2, 2), [deadly(3), END])))
    assert indexes(found) == [[0, 1], [4, 5]]
    assert found[0]["pid"] != found[1]["pid"]
    assert "SIGKILL" in driver.why_lost()


def test_a_hunt_says_in_which_stage_a_file_was_last_seen(driver):
    ledger = driver.ledger({})
    work = Pass(
        blocks(1, 1), [Node("first", "deadly_stage:DeadlyStage", {"poison": -1}), deadly(0), END], hunt=ledger
    )
    assert indexes(list(driver.receipts(work))) == [[1]]
    assert driver.last_seen(ledger) == {0: ("deadly", None), 1: ("write", None)}


def test_who_claimed_a_content_is_known_after_the_process_has_died(driver):
    ledger = driver.ledger({"content 1": "elsewhere"})
    nodes = [Node("write", "inline_stages:Receipts", {"ledger": ledger}), deadly(1)]
    work = Pass(blocks(1, 1, 1, 1), [deadly(1), nodes[0]])
    found = list(driver.receipts(work))
    assert [r["owners"] for r in found] == [["0"], ["0"], ["elsewhere"]]
    assert found[0]["pid"] != found[1]["pid"]


def test_what_a_stage_raises_ends_the_run_with_its_words(driver):
    with pytest.raises(StageFailed, match=r"ZeroDivisionError: on purpose \(in broken\)") as caught:
        list(driver.receipts(Pass(blocks(1, 1), [Node("broken", "inline_stages:Raises"), END])))
    assert "inline_stages.py" in caught.value.worker_traceback


def test_so_does_a_worker_that_cannot_be_made(driver):
    with pytest.raises(StageFailed, match=r"ValueError: not on this machine \(in none\)"):
        list(driver.receipts(Pass(blocks(1), [Node("none", "inline_stages:CannotBeMade"), END])))


def test_a_process_that_dies_before_it_has_a_file_is_started_again(driver, tmp_path):
    flaky = Node("flaky", "inline_stages:DiesWhenMade", {"counter": str(tmp_path / "n"), "times": 2})
    assert indexes(list(driver.receipts(Pass(blocks(1, 1), [flaky, END])))) == [[0], [1]]


def test_but_not_for_ever(driver, tmp_path):
    never = Node("never", "inline_stages:DiesWhenMade", {"counter": str(tmp_path / "n"), "times": 99})
    with pytest.raises(DoesNotStart, match=r"exited with code 7 \(no such library\), 3 times"):
        list(driver.receipts(Pass(blocks(1), [never, END])))
    assert len((tmp_path / "n").read_text()) == 3


def test_a_run_that_is_closed_early_ends_the_process_and_what_it_does(driver, tmp_path):
    receipts = driver.receipts(Pass(blocks(1, 1), [END]))
    pid = next(receipts)["pid"]
    receipts.close()
    assert ended(pid)


def test_the_process_ends_with_this_one(tmp_path):
    """Killed, so that it cannot end anything itself."""
    code = (
        "import sys; sys.path[:0] = sys.argv[2:]\n"
        "import pyarrow as pa\n"
        "from pipeline.engine.driver import Pass\n"
        "from pipeline.engine.inline import InlineDriver\n"
        "from pipeline.engine.node import Node\n"
        "waits = Node('waits', 'inline_stages:Waits', {'there': sys.argv[1]})\n"
        "list(InlineDriver().receipts(Pass([pa.table({'index': [0]})], [waits])))\n"
    )
    there = tmp_path / "there"
    paths = [str(Path(__file__).parent), str(Path(__file__).parents[2])]
    job = subprocess.Popen([sys.executable, "-c", code, str(there), *paths])
    try:
        while not (there.exists() and there.read_text()):
            assert job.poll() is None
            time.sleep(0.05)
    finally:
        job.kill()
        job.wait()
    pid = int(there.read_text())
    until = time.monotonic() + 60
    while not ended(pid):
        assert time.monotonic() < until
        time.sleep(0.05)


def test_calls_are_answered_there_asked_ahead_or_not():
    driver = InlineDriver(warm=["decimal", "no_such_module"])
    driver.begin([("inline_stages:loaded", "decimal"), ("inline_stages:loaded", "no_such_module")])
    driver.begin()
    assert driver.call("inline_stages:loaded", "decimal") is True
    assert driver.call("inline_stages:loaded", "ray") is False
    assert indexes(list(driver.receipts(Pass(blocks(1), [END])))) == [[0]]
    assert driver.call("inline_stages:loaded", "torch") is False
    driver.close()


def test_what_a_call_raises_is_raised_here(driver):
    with pytest.raises(KeyError, match="why"):
        driver.call("inline_stages:refuse", "why")
    assert driver.call("inline_stages:loaded", "sys") is True


def test_a_process_that_dies_of_a_call_is_said(driver):
    with pytest.raises(DoesNotStart, match="SIGKILL.*inline_stages:die"):
        driver.call("inline_stages:die")


def test_the_machine_is_what_ray_would_take_for_it(driver):
    found = driver.cluster()
    assert (found.address, found.cpus, found.gpus, found.nodes, found.node_cpus) == (
        INLINE,
        2.0,
        0.0,
        1,
        (2.0,),
    )
    assert driver.cards() is None


def test_in_this_process_where_that_is_asked_for():
    driver = InlineDriver(child=False)
    ledger = driver.ledger({})
    work = Pass(
        blocks(2, 1), [deadly(-1), Node("write", "inline_stages:Receipts", {"ledger": ledger})], hunt=ledger
    )
    found = list(driver.receipts(work))
    assert indexes(found) == [[0, 1], [2]]
    assert [r["owners"] for r in found] == [["0", "1"], ["0"]]
    assert {receipt["pid"] for receipt in found} == {os.getpid()}
    assert driver.last_seen(ledger)[2] == ("write", None)
    assert driver.call("inline_stages:loaded", "pytest") is True
    driver.close()


def test_the_progress_view_sees_how_far_each_stage_is(driver):
    receipts = driver.receipts(Pass(blocks(2, 1, 3), [deadly(-1), END]))
    next(receipts)
    assert stage_states() == {"deadly": StageState(2, 2, 0, 1), "write": StageState(2, 0, 0, 1)}
    list(receipts)
    assert stage_states() == {"deadly": StageState(6, 0, 0, 1), "write": StageState(6, 0, 0, 1)}


def test_neither_side_imports_ray():
    code = (
        "import sys; sys.path[:0] = sys.argv[1:]\n"
        "import pyarrow as pa\n"
        "from pipeline.engine.driver import Pass\n"
        "from pipeline.engine.inline import InlineDriver\n"
        "from pipeline.engine.node import Node\n"
        "driver = InlineDriver(warm=['pipeline.engine.sink'])\n"
        "driver.cluster()\n"
        "list(driver.receipts(Pass([pa.table({'index': [0]})], [Node('write', 'inline_stages:Receipts')])))\n"
        "there = [driver.call('inline_stages:loaded', name) for name in ('ray', 'torch')]\n"
        "driver.close()\n"
        "print('ray' in sys.modules, 'torch' in sys.modules, *there)\n"
    )
    paths = [str(Path(__file__).parent), str(Path(__file__).parents[2])]
    done = subprocess.run([sys.executable, "-c", code, *paths], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False"] * 4


def test_several_processes_share_the_blocks(driver, tmp_path):
    """Each waits for the other one to be at work."""
    driver.processes = 2
    meets = Node("meets", "inline_stages:MeetsTheOther", {"folder": str(tmp_path), "count": 2})
    found = list(driver.receipts(Pass(blocks(1, 2, 1, 1), [meets, END])))
    assert sorted(indexes(found)) == [[0], [1, 2], [3], [4]]
    assert len({receipt["pid"] for receipt in found}) == 2
    assert stage_states()["write"] == StageState(5, 0, 0, 2)


def test_no_more_processes_than_blocks(driver):
    driver.processes = 4
    assert len({r["pid"] for r in driver.receipts(Pass(blocks(3), [END]))}) == 1


def test_a_hunt_is_in_one_process(driver, tmp_path):
    driver.processes = 2
    meets = Node("meets", "inline_stages:MeetsTheOther", {"folder": str(tmp_path), "count": 2})
    list(driver.receipts(Pass(blocks(1, 1), [meets, END])))
    found = list(driver.receipts(Pass(blocks(1, 1, 1), [END], hunt=driver.ledger({}))))
    assert len({receipt["pid"] for receipt in found}) == 1


def test_one_of_several_that_dies_costs_its_block(driver, tmp_path):
    driver.processes = 2
    meets = Node("meets", "inline_stages:MeetsTheOther", {"folder": str(tmp_path), "count": 2})
    found = list(driver.receipts(Pass(blocks(1, 1, 1, 1, 1, 1), [meets, deadly(3), END])))
    assert sorted(indexes(found)) == [[0], [1], [2], [4], [5]]
    assert "SIGKILL" in driver.why_lost()


def test_one_of_several_that_never_starts_leaves_its_work_to_the_others(driver, tmp_path):
    driver.processes = 2
    flaky = Node("flaky", "inline_stages:DiesBesideAnother", {"folder": str(tmp_path)})
    found = list(driver.receipts(Pass(blocks(1, 1, 1), [flaky, END])))
    assert indexes(found) == [[0], [1], [2]]
    assert len({receipt["pid"] for receipt in found}) == 1


def test_several_processes_agree_on_who_computes_a_content(driver, tmp_path):
    driver.processes = 2
    ledger = driver.ledger({})
    meets = Node("meets", "inline_stages:MeetsTheOther", {"folder": str(tmp_path), "count": 2})
    claims = Node("write", "inline_stages:Receipts", {"ledger": ledger})
    found = list(driver.receipts(Pass(blocks(2, 2, 2), [meets, claims])))
    assert len({receipt["pid"] for receipt in found}) == 2
    assert len({tuple(receipt["owners"]) for receipt in found}) == 1


def test_a_process_that_the_command_began_is_taken_over():
    start_ahead(["decimal"])
    driver = InlineDriver()
    driver.begin([("inline_stages:process",)])
    there = driver.call("inline_stages:process")
    assert [r["pid"] for r in driver.receipts(Pass(blocks(1), [END]))] == [there["pid"]]
    assert there["parent"] == os.getpid()
    driver.close()


def test_one_with_other_threads_is_not():
    start_ahead([])
    driver = InlineDriver(threads=3)
    assert [r["threads"] for r in driver.receipts(Pass(blocks(1), [END]))] == ["3"]
    driver.close()


def test_nor_one_that_has_died_meanwhile():
    start_ahead([])
    there = worker_process._Ahead.process
    os.kill(there.call("inline_stages:process")["pid"], signal.SIGKILL)
    there._child.process.wait()
    driver = InlineDriver()
    assert indexes(list(driver.receipts(Pass(blocks(1), [END])))) == [[0]]
    driver.close()


def test_one_that_nobody_takes_over_is_ended():
    start_ahead([])
    pid = worker_process._Ahead.process.call("inline_stages:process")["pid"]
    end_ahead()
    assert ended(pid)
    end_ahead()
