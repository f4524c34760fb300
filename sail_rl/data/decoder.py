"""A process that decodes pictures and videos one by one, and says what is wrong with them: `-m sail_rl.data.decoder`.

A broken file may crash its decoder, fill the memory or keep it busy for hours; then only this process dies.
"""

from __future__ import annotations

import json
import os
import pickle
import resource
import signal
import struct
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sail_rl.data.images import decode
from sail_rl.data.video import read_frames

SIZE = struct.Struct("!Q")  # bytes of the pickled medium that follows
MEMORY_BYTES = 8 * 2**30
PICTURE_SECONDS = 60
VIDEO_SECONDS = 600


@dataclass(frozen=True, slots=True)
class Medium:
    """A picture of a row, or its video.

    Attributes:
        source: a picture as `images.open_picture` takes it, or the path of a video file.
        folder: the folder of relative paths.
        frames: the number of frames to decode of a video; 0 for a picture.
    """

    source: Any
    folder: Path
    frames: int = 0

    @property
    def seconds(self) -> int:
        """The time limit."""
        return VIDEO_SECONDS if self.frames else PICTURE_SECONDS


def main() -> None:
    """Read media from standard input until it ends; write a line of JSON for each: null, or what is wrong."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    jobs, answers = sys.stdin.buffer, os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # output of libraries must not mix with the answers
    while header := jobs.read(SIZE.size):
        medium = pickle.loads(jobs.read(*SIZE.unpack(header)))
        signal.alarm(medium.seconds)  # ends this process, even in the middle of a decoder's loop
        answers.write(json.dumps(_wrong(medium)) + "\n")
        answers.flush()
        signal.alarm(0)


def _wrong(medium: Medium) -> str | None:
    try:
        if medium.frames:
            read_frames(medium.source, medium.folder, count=medium.frames)
        else:
            decode(medium.source, medium.folder)
    except MemoryError:
        return f"the picture needs more than {MEMORY_BYTES >> 30} GiB of memory"
    except Exception as error:  # PIL's plugins raise anything for broken files
        return str(error) or type(error).__name__
    return None


if __name__ == "__main__":
    main()
