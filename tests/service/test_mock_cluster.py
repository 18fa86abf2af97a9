"""Each request has one answer, whatever brokers say and wherever they are: on the mock cluster inside librdkafka.

Songs are not worked on: a stub is in the place of a worker, and says which message it was given. What the mock cannot
prove, `helpers.mock_kafka` says.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from confluent_kafka import KafkaError
from helpers.mock_kafka import ALL, Api, MockCluster
from helpers.stub_service import GROUP_AT, KIP_848, SHORT, TRANSACTIONS_AT, Scene, until

from pipeline.service.offsets import Offsets


@pytest.fixture
def cluster() -> Iterator[MockCluster]:
    with MockCluster(3) as found:
        yield found


@pytest.fixture
def scenes(cluster) -> Iterator[Callable[..., Scene]]:
    """Makes a scene on the cluster; its members end with the test."""
    made: list[Scene] = []

    def scene(**arguments: Any) -> Scene:
        made.append(Scene(cluster, **arguments))
        return made[-1]

    yield scene
    for member in [member for one in made for member in one.members]:
        member.songs.held.clear()
        member.leave(patient=False)
    made.clear()
    gc.collect()  # clients that nobody has any more go on looking for their brokers


AT_THE_START = [
    (Api.FIND_COORDINATOR, [KafkaError.COORDINATOR_NOT_AVAILABLE] * 3),
    (Api.FIND_COORDINATOR, [KafkaError._TRANSPORT] * 2),
    (Api.INIT_PRODUCER_ID, [KafkaError.COORDINATOR_LOAD_IN_PROGRESS, KafkaError.NOT_COORDINATOR]),
    (Api.JOIN_GROUP, [KafkaError.COORDINATOR_LOAD_IN_PROGRESS]),
    (Api.JOIN_GROUP, [KafkaError.UNKNOWN_MEMBER_ID]),
    (Api.SYNC_GROUP, [KafkaError.REBALANCE_IN_PROGRESS]),
    (Api.OFFSET_FETCH, [KafkaError.COORDINATOR_LOAD_IN_PROGRESS, KafkaError._TRANSPORT]),
]
TRANSACTIONS = [
    (Api.PRODUCE, [KafkaError.NOT_ENOUGH_REPLICAS, KafkaError.REQUEST_TIMED_OUT]),
    (Api.PRODUCE, [KafkaError._TRANSPORT] * 2),
    (Api.PRODUCE, [KafkaError.TOPIC_AUTHORIZATION_FAILED]),
    (Api.PRODUCE, [KafkaError.INVALID_PRODUCER_EPOCH]),
    (Api.ADD_PARTITIONS_TO_TXN, [KafkaError.CONCURRENT_TRANSACTIONS, KafkaError.NOT_COORDINATOR]),
    (Api.ADD_OFFSETS_TO_TXN, [KafkaError.CONCURRENT_TRANSACTIONS]),
    (Api.ADD_OFFSETS_TO_TXN, [KafkaError.INVALID_PRODUCER_EPOCH]),
    (Api.TXN_OFFSET_COMMIT, [KafkaError.COORDINATOR_LOAD_IN_PROGRESS]),
    (Api.TXN_OFFSET_COMMIT, [KafkaError._TRANSPORT]),
    (Api.TXN_OFFSET_COMMIT, [KafkaError.ILLEGAL_GENERATION]),
    (Api.TXN_OFFSET_COMMIT, [KafkaError.UNKNOWN_MEMBER_ID]),
    (Api.END_TXN, [KafkaError.COORDINATOR_NOT_AVAILABLE]),
    (Api.END_TXN, [KafkaError._TRANSPORT]),
    (Api.END_TXN, [KafkaError.INVALID_PRODUCER_EPOCH]),
    (Api.END_TXN, [KafkaError.PRODUCER_FENCED]),
]
WITHOUT_THEM = [
    (Api.PRODUCE, [KafkaError.NOT_ENOUGH_REPLICAS, KafkaError.REQUEST_TIMED_OUT]),
    (Api.PRODUCE, [KafkaError.TOPIC_AUTHORIZATION_FAILED]),
    (Api.OFFSET_COMMIT, [KafkaError.COORDINATOR_LOAD_IN_PROGRESS]),
    (Api.OFFSET_COMMIT, [KafkaError.REBALANCE_IN_PROGRESS]),
]
READING = [
    (Api.FETCH, [KafkaError.NOT_LEADER_FOR_PARTITION, KafkaError.UNKNOWN_TOPIC_OR_PART]),
    (Api.FETCH, [KafkaError._TRANSPORT] * 2),
    (Api.HEARTBEAT, [KafkaError.REBALANCE_IN_PROGRESS]),
    (Api.HEARTBEAT, [KafkaError.COORDINATOR_NOT_AVAILABLE]),
]
LOST = [
    (Api.HEARTBEAT, [KafkaError.UNKNOWN_MEMBER_ID]),
    (Api.HEARTBEAT, [KafkaError.ILLEGAL_GENERATION]),
]


Case = tuple[Api, Sequence[int]]


def options(case: Case) -> dict[str, Any]:
    groups = (Api.JOIN_GROUP, Api.SYNC_GROUP, Api.HEARTBEAT)
    return dict(SHORT) if case[0] in groups else {}


def named(case: Case) -> str:
    return f"{case[0].name}-" + "-".join(KafkaError(code).name().strip("_") for code in case[1])


@pytest.mark.parametrize("case", AT_THE_START, ids=named)
def test_a_service_begins_once_brokers_let_it(cluster, scenes, case):
    scene = scenes()
    scene.ask(3, 0)
    cluster.inject(case[0], *case[1])
    scene.member(options=options(case))
    scene.check()
    assert cluster.requests(case[0]) > len(case[1])


@pytest.mark.parametrize("case", TRANSACTIONS, ids=named)
def test_an_answer_is_there_once_whatever_a_broker_says(cluster, scenes, case):
    answered_over_errors(cluster, scenes(), case)


@pytest.mark.parametrize("case", WITHOUT_THEM, ids=named)
def test_without_transactions_it_is_too_as_long_as_nobody_dies(cluster, scenes, case):
    answered_over_errors(cluster, scenes(exactly_once=False), case)


def answered_over_errors(cluster: MockCluster, scene: Scene, case: Case) -> None:
    """Three songs, and four more, of which the first is done last, and errors meet the second."""
    member = scene.member(hands=4)
    scene.ask(3, 0)
    scene.answered()
    until(lambda: scene.done()[0] == 3, "three are committed")
    member.songs.held |= {"0-3", "0-4", "0-5", "0-6"}
    scene.ask(4, 0)
    until(lambda: len(member.songs.begun) == 7, "all are in hand")
    before = cluster.requests(case[0])
    cluster.inject(case[0], *case[1])
    member.songs.held.discard("0-4")  # alone: the mock takes what comes behind a lost one
    scene.answered(4)
    member.songs.held -= {"0-5", "0-6"}
    scene.answered(6)
    until(lambda: cluster.requests(case[0]) > before + len(case[1]), f"{case[0].name} comes again")
    assert scene.done()[0] == 3
    member.songs.held.clear()
    scene.check()


@pytest.mark.parametrize("case", READING, ids=named)
def test_requests_come_over_errors(cluster, scenes, case):
    scene = scenes()
    member = scene.member(options=options(case))
    scene.ask(2, 0)
    scene.answered()
    member.songs.held.add("0-2")
    before = cluster.requests(case[0])
    cluster.inject(case[0], *case[1])
    scene.ask(3, 0)
    scene.answered(4)
    until(lambda: cluster.requests(case[0]) > before + len(case[1]), f"{case[0].name} comes again")
    member.songs.held.clear()
    scene.check()
    assert len(set(member.songs.begun)) == len(member.songs.begun)


@pytest.mark.parametrize("exactly_once", [True, False])
@pytest.mark.parametrize("case", LOST, ids=named)
def test_what_was_in_hand_of_one_that_the_group_forgot_is_done_anew(cluster, scenes, case, exactly_once):
    scene = scenes(exactly_once=exactly_once)
    member = scene.member(hands=4, options=options(case))
    member.songs.held.add("0-1")
    scene.ask(3, 0)
    until(lambda: scene.stored()[0] == (1, "ahead:1"), "one is in hand, and one done ahead")
    committed_before = len(scene.witness.commits)
    cluster.inject(case[0], *case[1])
    until(lambda: member.songs.begun.count("0-1") == 2, "it is begun anew")
    until(lambda: member.steps("done_already"), "the other one is not")
    assert len(scene.witness.commits) == committed_before
    member.songs.held.clear()
    scene.check()
    assert len(member.steps("not_announced")) == 1


@pytest.mark.parametrize(
    "broker",
    [
        pytest.param(1, id="leads the results"),
        pytest.param(TRANSACTIONS_AT, id="coordinates transactions and leads requests"),
        pytest.param(GROUP_AT, id="coordinates the group"),
    ],
)
def test_a_broker_goes_down_and_up_while_requests_come(cluster, scenes, monkeypatch, broker):
    monkeypatch.setattr("pipeline.service.announcer.WAIT_S", 1.0)
    scene = scenes()
    member = scene.member()
    scene.ask(2, 0), scene.ask(2, 1)
    scene.answered()
    cluster.down(broker)
    asking = threading.Thread(target=lambda: (scene.ask(3, 0), scene.ask(3, 1)))
    asking.start()
    member.rounds(10)
    cluster.up(broker)
    asking.join(30)
    scene.check()


@pytest.mark.parametrize("exactly_once", [True, False])
def test_what_was_done_while_all_brokers_were_down_is_said_once_they_are_up(
    cluster, scenes, monkeypatch, exactly_once
):
    monkeypatch.setattr("pipeline.service.announcer.WAIT_S", 1.0)
    scene = scenes(exactly_once=exactly_once)
    member = scene.member(hands=4)
    member.songs.held |= {"0-1", "0-2", "0-3"}
    scene.ask(4, 0)
    until(lambda: scene.done()[0] == 1, "one is committed")
    until(lambda: len(member.songs.begun) == 4, "three are in hand")
    cluster.down(ALL)
    member.songs.held.clear()
    until(lambda: not member.crew.busy(), "all are done")
    # Whoever says the answers waits for the brokers, and the loop does not wait for him.
    member.rounds(10)
    assert member.announcer.pending == 3
    assert len(scene.witness.answers) == 1
    cluster.up(ALL)
    scene.ask(2, 0)
    scene.check()


@pytest.mark.parametrize(
    ("protocol", "exactly_once"),
    [(SHORT, True), (KIP_848, True), (KIP_848, False)],
    ids=["classic", "KIP-848", "KIP-848 without transactions"],
)
def test_one_joins_and_leaves_under_load(cluster, scenes, protocol, exactly_once):
    """Both wait before the group changes until the mock has what they committed: it takes nothing meanwhile."""
    scene = scenes(exactly_once=exactly_once, partitions=4)
    first = scene.member("first", hands=6, options=protocol)
    first.songs.held |= {f"{partition}-1" for partition in range(4)}
    for partition in range(4):
        scene.ask(3, partition)
    until(lambda: scene.stored() == {n: (1, "ahead:1") for n in range(4)}, "one of each is in hand")
    second = scene.member("second", hands=6, options=protocol)
    second.songs.held |= first.songs.held
    until(lambda: second.crew.busy() == 2, "the second has two of them in hand, too")
    moved = {int(song[0]) for song in second.songs.begun}
    first.songs.held.clear()
    until(lambda: len(first.steps("not_announced")) == 2, "those are no longer the first one's")
    for partition in range(4):
        scene.ask(1, partition)
    wanted = {n: (1, "ahead:1-2") if n in moved else (4, "") for n in range(4)}
    until(lambda: scene.stored() == wanted, lambda: f"{wanted}, {scene.how()}")
    first.songs.held |= {f"{partition}-1" for partition in moved}
    second.leave(patient=False)
    scene.members.remove(second)
    until(lambda: len(first.steps("done_already")) == 4, "the first one knows what was done ahead")
    first.songs.held.clear()
    scene.check()
    assert len(second.steps("abandoned")) == 2
    assert sorted(second.songs.begun) == sorted(f"{p}-{n}" for p in moved for n in (1, 3))


def test_what_was_done_ahead_and_comes_late_is_not_done_again():
    offsets = Offsets(ahead=[2])
    assert offsets.take(1)
    offsets.finish([1])
    assert offsets.commit_of([]) == (3, "")
    assert not offsets.take(2)


def test_without_transactions_an_offset_that_got_lost_is_committed_before_the_end(cluster, scenes):
    scene = scenes(exactly_once=False)
    member = scene.member()
    scene.ask(1, 0)
    until(lambda: scene.done()[0] == 1, "one is committed")
    before = cluster.requests(Api.OFFSET_COMMIT)
    cluster.inject(
        Api.OFFSET_COMMIT, KafkaError.COORDINATOR_LOAD_IN_PROGRESS, KafkaError.REBALANCE_IN_PROGRESS
    )
    scene.ask(1, 0)
    scene.answered()
    until(lambda: cluster.requests(Api.OFFSET_COMMIT) >= before + 2, "it got lost")
    member.leave()
    scene.members.clear()
    assert scene.done()[0] == 2


def test_the_loop_does_not_wait_for_brokers_that_are_slow(cluster, scenes):
    scene = scenes()
    member = scene.member()
    scene.ask(1, 0)
    scene.answered()
    member.songs.held.add("0-1")
    scene.ask(1, 0)
    until(lambda: member.crew.busy(), "one is in hand")
    cluster.round_trip(ALL, 300)
    before = member.state.rounds
    member.songs.held.clear()
    scene.answered()
    # The five requests of a transaction come one after the other: meanwhile a loop that waits comes round once.
    assert member.state.rounds > before + 2
    cluster.round_trip(ALL, 0)
    scene.check()
