"""Ask the karaoke service for a song by hand, see what it answers, and send again what could not be done."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import re
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

import preflight

preflight.check()

import environment_file

environment_file.load()

from pipeline.commands import as_typed, program
from pipeline.counting import plural
from pipeline.errors import UserError
from pipeline.service.kafka import CODE, CUT, REASON, Broker, Topics, travelling
from pipeline.service.messages import DEAD_LETTERS, REMOVE_VOCALS, RETRIED, Names, is_plain, video_id_of

EPILOG = """examples:
  python jobs/karaoke_request.py send song.mp3                     ask for a song; its video_id is song
  python jobs/karaoke_request.py send song.mp3 --video-id my-id    ask for it by another name
  python jobs/karaoke_request.py answers                           show all answers, and new ones until Ctrl-C
  python jobs/karaoke_request.py --kafka HOST:9092 answers         from another broker
  python jobs/karaoke_request.py dead                              list the dead letters, and why they are some
  python jobs/karaoke_request.py dead --code DISK_FULL --again     ask once more for those with this code

Without --kafka the broker is the one that KAFKA_BOOTSTRAP_SERVERS names, in the environment or a file .env.
Exit codes: 0 done, 1 nobody answers, 2 not possible as typed.
"""
SEND_S = 15.0
QUIET = {"log_level": 2}
"""Of librdkafka: it would write a line for every try, and what matters is said once."""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    raw = argparse.RawDescriptionHelpFormatter
    top = argparse.ArgumentParser(
        prog=program("karaoke_request"), description=__doc__, epilog=as_typed(EPILOG), formatter_class=raw
    )
    default = os.environ.get("KAFKA_BOOTSTRAP_SERVERS", "localhost:9092")
    top.add_argument(
        "--kafka", default=default, metavar="HOST:PORT", help="the broker (default: %(default)s)"
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="{send,answers,dead}")
    ask = commands.add_parser(
        "send", help="ask for a song", epilog="example: send song.mp3 --video-id dQw4w9WgXcQ"
    )
    ask.add_argument("song", help="its path as the service sees it, or its URL")
    ask.add_argument(
        "--video-id",
        help="its name in the search index (default: the file's, without its suffix, in letters, digits and ._-)",
    )
    show = commands.add_parser("answers", help="show the answers")
    show.add_argument("--count", type=int, default=0, metavar="N", help="end after so many (default: never)")
    dead = commands.add_parser("dead", help="show the dead letters, or send them again")
    dead.add_argument(
        "--code", choices=sorted(DEAD_LETTERS | RETRIED), metavar="CODE", help="only those with it"
    )
    dead.add_argument("--video-id", help="only those of this video")
    dead.add_argument(
        "--again", action="store_true", help="send them as new requests; they stay dead letters, too"
    )
    return top


def send(broker: Broker, song: str, video_id: str | None) -> int:
    """Ask for a song; returns the exit code. Raises `UserError`."""
    path = song if "://" in song else str(Path(song).absolute())
    name = video_id or _plain(Path(song).stem)
    if not is_plain(name):
        raise UserError(
            f"--video-id={name} cannot be one", "it may have letters, digits and ._-", "--video-id my-song"
        )
    value = {"video_id": name, "original_path": path, "action": REMOVE_VOCALS}
    producer = broker.producer("by-hand")
    problems: list[str] = []
    producer.produce(
        Topics().requests,
        json.dumps(value, ensure_ascii=False).encode(),
        name.encode(),
        on_delivery=lambda error, message: problems.append(error.str()) if error else None,
    )
    if producer.flush(SEND_S) or problems:
        producer.purge()
        return nobody(broker, problems[0] if problems else f"no answer within {SEND_S:.0f} s")
    print(json.dumps(value, ensure_ascii=False))
    return 0


def _plain(stem: str) -> str:
    """A file's name as a video_id."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip(".-")[:200] or "song"


def nobody(broker: Broker, why: str) -> int:
    """Say that there is no broker; returns the exit code."""
    error = UserError(
        f"no Kafka at {broker.servers}", why, "--kafka HOST:PORT before the word send, answers or dead"
    )
    print(error.explained(), file=sys.stderr)
    return 1


def answers(broker: Broker, count: int) -> int:
    """Print answers, the oldest first; returns the exit code."""
    topic, seen = Topics().results, 0
    consumer = broker.consumer("by-hand")
    partitions = partitions_of(consumer, topic)
    if not partitions:
        return nobody(broker, f"no answer, or it has no topic {topic}")
    consumer.assign(partitions)
    while not count or seen < count:
        message = consumer.poll(0.5)
        if message is not None and message.error() is None:
            print(message.value().decode(), flush=True)
            seen += 1
    return 0


def dead(broker: Broker, code: str | None, video_id: str | None, again: bool) -> int:
    """Print dead letters, and send them again if so; returns the exit code."""
    letters = read_to_the_end(broker, Topics().dead_letters)
    if letters is None:
        return nobody(broker, f"no answer, or it has no topic {Topics().dead_letters}")
    producer, sent = broker.producer("by-hand"), 0
    for message in letters:
        kept = travelling(message.headers())
        headers = {name: (value or b"").decode(errors="replace") for name, value in message.headers() or ()}
        name = video_id_of(message.value(), Names())
        if code not in (None, headers.get(CODE)) or video_id not in (None, name):
            continue
        about = {"video_id": name, "error_code": headers.get(CODE), "reason": headers.get(REASON)}
        whole = CUT not in headers
        if again and whole:
            producer.produce(Topics().requests, message.value(), message.key(), headers=list(kept))
            sent += 1
        print(json.dumps(about | ({} if whole else {"cut_from_bytes": headers[CUT]}), ensure_ascii=False))
    if producer.flush(SEND_S):
        producer.purge()
        return nobody(broker, f"no answer within {SEND_S:.0f} s")
    if again:
        print(f"{plural(sent, 'request')} sent", file=sys.stderr)
    return 0


def read_to_the_end(broker: Broker, topic: str) -> list[Any] | None:
    """All committed messages that a topic has now, in no order; None where there is no such topic, or no answer."""
    from confluent_kafka import KafkaError

    broker = dataclasses.replace(broker, options={**broker.options, "enable.partition.eof": True})
    consumer = broker.consumer("by-hand")
    partitions = partitions_of(consumer, topic)
    consumer.assign(partitions)
    left, found = {partition.partition for partition in partitions}, []
    heard = time.monotonic()
    while left and time.monotonic() - heard < SEND_S:
        message = consumer.poll(0.5)
        if message is None:
            continue
        if message.error() is None:
            found.append(message)
        elif message.error().code() == KafkaError._PARTITION_EOF:
            left.discard(message.partition())
        else:
            continue
        heard = time.monotonic()
    return found if partitions and not left else None


def partitions_of(consumer: Any, topic: str) -> list[Any]:
    """A topic's partitions, each from its beginning; none where no broker says so in time."""
    from confluent_kafka import TopicPartition

    end = time.monotonic() + SEND_S
    while time.monotonic() < end:
        try:
            found = consumer.list_topics(topic, timeout=2).topics[topic].partitions
        except Exception:  # noqa: BLE001  the client says by many names that nobody is there
            found = {}
        if found:
            return [TopicPartition(topic, number, 0) for number in found]
        time.sleep(0.2)
    return []


def main() -> int:
    """Exit code."""
    given = parser().parse_args()
    broker = Broker(given.kafka, group="by-hand", options=QUIET, exactly_once=False)
    try:
        if given.command == "send":
            return send(broker, given.song, given.video_id)
        if given.command == "dead":
            return dead(broker, given.code, given.video_id, given.again)
        return answers(broker, given.count)
    except UserError as error:
        print(error.explained(), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 0


if __name__ == "__main__":
    sys.exit(main())
