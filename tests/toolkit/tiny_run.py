"""`cxr-edge` with one more backbone, of a few thousand weights: real runs in seconds, to be cut off and started again.

Run by `runpy` with these among its globals: ARGUMENTS; LOG, a path; STOP, None or (line, signal): the process sends
itself the signal in the middle of the epoch that follows the line.
"""

import os

ARGUMENTS, LOG, STOP = (globals().get(name) for name in ("ARGUMENTS", "LOG", "STOP"))
log = os.open(LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
os.dup2(log, 1)
os.dup2(log, 2)

import click  # noqa: E402

from toolkit.backbones.kinds import BACKBONES, EfficientNet  # noqa: E402
from toolkit.cli.main import main  # noqa: E402

BACKBONES["tiny"] = EfficientNet(
    "tiny", "swish", True, blocks=((3, 1, 8, 1, 1), (3, 2, 8, 4, 2)), stem_channels=8, feature_channels=16
)


def stop_in_the_middle(line: str, number: int) -> None:
    from toolkit.stream import BatchStream

    echo, batch = click.echo, BatchStream._batch
    left: list[int] = []

    def listening_echo(message: object = None, **options: object) -> None:
        echo(message, **options)
        if str(message).startswith(line):
            left[:] = [0, 0]

    def deadly_batch(self: BatchStream, *arguments: object) -> object:
        if left and left.pop() == 0 and not left:
            os.kill(os.getpid(), number)
        return batch(self, *arguments)

    click.echo, BatchStream._batch = listening_echo, deadly_batch


if STOP:
    stop_in_the_middle(*STOP)
main(ARGUMENTS)
