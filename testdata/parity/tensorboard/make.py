"""Event files written with TensorBoard's own record writer and messages: a run, and its resumption after a crash.

Run: python make.py        (writes first.tfevents and second.tfevents beside this file)
Made with: tensorboard 2.21.0, protobuf's serialisation in Python.

It also checks that TensorBoard, reading both files in their order, shows no step twice: the run had done 1, 2 and 300,
its state had 1, so that 2 and 300 of the first file are void. A torn record at the end of the first file changes nothing.
"""

import pathlib
import tempfile

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.compat.proto import event_pb2, summary_pb2
from tensorboard.summary.writer.record_writer import RecordWriter

VERSION = "brain.Event:2"


def scalars(wall_time, step, values):
    values = [summary_pb2.Summary.Value(tag=tag, simple_value=value) for tag, value in values]
    return event_pb2.Event(wall_time=wall_time, step=step, summary=summary_pb2.Summary(value=values))


def first():
    yield event_pb2.Event(wall_time=1_700_000_000.25, file_version=VERSION)
    for step, loss in [(1, 2.5), (2, float("inf")), (300, -0.125)]:
        yield scalars(1_700_000_001.5 + step, step, [("train/loss", loss), ("train/größe", step)])
    yield scalars(0.0, 0, [("zero", 0.0)])


def second():
    start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
    yield event_pb2.Event(wall_time=1_700_000_400.75, step=2, file_version=VERSION)
    yield event_pb2.Event(wall_time=1_700_000_400.75, step=2, session_log=start)
    yield scalars(1_700_000_401.0, 2, [("train/loss", 2.0)])


def write(path, events):
    with path.open("wb") as file:
        writer = RecordWriter(file)
        for event in events:
            writer.write(event.SerializeToString(deterministic=True))


def shown(files):
    with tempfile.TemporaryDirectory() as folder:
        for i, content in enumerate(files):
            name = f"events.out.tfevents.170000000{i}.conjoin.1.0"
            (pathlib.Path(folder) / name).write_bytes(content)
        accumulator = EventAccumulator(folder)
        accumulator.Reload()
        return [(e.step, e.value) for e in accumulator.Scalars("train/loss")]


def main():
    here = pathlib.Path(__file__).parent
    write(here / "first.tfevents", first())
    write(here / "second.tfevents", second())
    one, two = [(here / f"{name}.tfevents").read_bytes() for name in ("first", "second")]
    assert shown([one]) == [(1, 2.5), (2, float("inf")), (300, -0.125)], shown([one])
    assert shown([one, two]) == [(1, 2.5), (2, 2.0)], shown([one, two])
    assert shown([one[:-7], two]) == [(1, 2.5), (2, 2.0)], shown([one[:-7], two])


if __name__ == "__main__":
    main()
