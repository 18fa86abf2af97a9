"""Ask the karaoke service for a song by hand, and see what it answers."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

import preflight

preflight.check()

import environment_file

environment_file.load()

from pipeline.commands import as_typed, program
from pipeline.errors import UserError
from pipeline.service.kafka import Broker, Topics
from pipeline.service.messages import REMOVE_VOCALS, is_plain

EPILOG = """examples:
  python jobs/karaoke_request.py send song.mp3      ask for a song; its video_id is the name without a suffix
  python jobs/karaoke_request.py answers            show all answers and go on showing them, until Ctrl-C

The broker is $KAFKA_BOOTSTRAP_SERVERS, or localhost:9092.
Exit codes: 0 done, 1 nobody answers, 2 not possible as typed.
"""
SEND_S = 15.0


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
    commands = top.add_subparsers(dest="command", required=True, metavar="{send,answers}")
    ask = commands.add_parser(
        "send", help="ask for a song", epilog="example: send song.mp3 --video-id dQw4w9WgXcQ"
    )
    ask.add_argument("song", help="its path as the service sees it, or its URL")
    ask.add_argument(
        "--video-id", help="its name in the search index (default: the file's, without a suffix)"
    )
    show = commands.add_parser("answers", help="show the answers")
    show.add_argument("--count", type=int, default=0, metavar="N", help="end after so many (default: never)")
    return top


def send(broker: Broker, song: str, video_id: str | None) -> int:
    """Ask for a song; returns the exit code. Raises `UserError`."""
    path = song if "://" in song else str(Path(song).absolute())
    name = video_id or Path(song).stem
    if not is_plain(name):
        raise UserError(f"{name} is no video_id", "letters, digits and ._- are", "--video-id my-song")
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
        print(
            f"nobody takes it at {broker.servers}: {problems[0] if problems else 'no answer'}",
            file=sys.stderr,
        )
        return 1
    print(json.dumps(value, ensure_ascii=False))
    return 0


def answers(broker: Broker, count: int) -> int:
    """Print answers, the oldest first; returns the exit code."""
    from confluent_kafka import TopicPartition

    consumer = broker.consumer("by-hand")
    topic = Topics().results
    seen, began = 0, time.monotonic()
    found = None
    while found is None or topic not in found.topics:
        if time.monotonic() - began > SEND_S:
            print(f"nobody answers at {broker.servers}, or there is no topic {topic}", file=sys.stderr)
            return 1
        try:
            found = consumer.list_topics(topic, timeout=2)
        except Exception:  # noqa: BLE001  the client says by many names that nobody is there
            found = None
    consumer.assign([TopicPartition(topic, number, 0) for number in found.topics[topic].partitions])
    while not count or seen < count:
        message = consumer.poll(0.5)
        if message is not None and message.error() is None:
            print(message.value().decode(), flush=True)
            seen += 1
    return 0


def main() -> int:
    """Exit code."""
    given = parser().parse_args()
    broker = Broker(given.kafka, group="by-hand", exactly_once=False)
    try:
        if given.command == "send":
            return send(broker, given.song, given.video_id)
        return answers(broker, given.count)
    except UserError as error:
        print(error.explained(), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 0


if __name__ == "__main__":
    sys.exit(main())
