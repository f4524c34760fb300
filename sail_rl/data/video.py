"""Turns videos into uniformly sampled frames, each labelled "Frame n: " in the prompt.

A video is a list of frames (pictures or their paths) or a file. Files need PyAV: `pip install sail-rl[video]`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image

from sail_rl.contracts import Message
from sail_rl.messages import as_parts

from .images import BrokenPictureError, Size, checked_size, exists, inside, open_picture
from .values import brief


def sample_indices(total: int, count: int) -> list[int]:
    """The indices of `count` frames among `total`, each in the middle of one of `count` equal parts; all if fewer."""
    if total <= count:
        return list(range(total))
    return [(2 * part + 1) * total // (2 * count) for part in range(count)]


def read_frames(video: Any, folder: Path, *, count: int) -> list[Image.Image]:
    """At most `count` frames of a video.

    Args:
        video: a list of frames, or the path of a file relative to `folder`.
        folder: the folder of relative paths.
        count: the number of frames to sample.

    Raises:
        ValueError: if a frame or the file is missing, or can't be decoded.
    """
    if isinstance(video, list):
        return [open_picture(video[index], folder) for index in sample_indices(len(video), count)]
    total, _ = _probe(inside(folder, video))
    wanted = set(sample_indices(total, count))
    frames: list[Image.Image] = []
    seen = 0
    with _container(inside(folder, video)) as container:
        for index, frame in enumerate(container.decode(video=0)):
            seen = index + 1
            if index in wanted:
                frames.append(frame.to_image().convert("RGB"))
            if len(frames) == len(wanted):
                break
    if len(frames) < len(wanted):
        raise BrokenPictureError(f"video {brief(video)} is truncated: it ends after {seen} of its {total} frames")
    return frames


def frame_sizes(video: Any, folder: Path, *, count: int) -> list[Size]:
    """(height, width) of each frame of `read_frames`, without decoding any; the errors are the same."""
    if isinstance(video, list):
        return [checked_size(video[index], folder) for index in sample_indices(len(video), count)]
    total, size = _probe(inside(folder, video))
    return [size] * min(total, count)


def with_frames(messages: list[Message], frames: int) -> list[Message]:
    """Replace the `video` part by labelled image parts; without one, they start the first user turn.

    Raises:
        ValueError: if the messages have several `video` parts, or image parts.
    """
    parts = [part["type"] for message in messages for part in as_parts(message["content"])]
    if parts.count("video") > 1 or "image" in parts:
        raise ValueError("a prompt with a video may have one video part and no image parts")
    labelled = [
        part
        for number in range(1, frames + 1)
        for part in ({"type": "text", "text": f"Frame {number}: "}, {"type": "image"})
    ]
    made, pending = [], "video" not in parts
    for message in messages:
        content = []
        if pending and message["role"] == "user":
            content, pending = list(labelled), False
        for part in as_parts(message["content"]):
            content += labelled if part["type"] == "video" else [part]
        made.append({**message, "content": content})
    return made


@contextmanager
def _container(path: Path) -> Iterator[Any]:
    """The opened video file; PyAV's errors in this context become ValueErrors that name the file."""
    try:
        import av
    except ImportError as error:
        raise ValueError(f"{path}: reading video files needs PyAV: pip install 'sail-rl[video]'") from error
    if not exists(path):
        raise BrokenPictureError(
            f"video {brief(path.name)} is missing (looked for {str(path)!r:.240}); paths are relative to the dataset "
            "file, or to `root`"
        )
    try:
        with av.open(str(path)) as container:
            yield container
    except av.FFmpegError as error:
        raise BrokenPictureError(f"video {brief(path.name)} can't be decoded: {error}") from error


def _probe(path: Path) -> tuple[int, Size]:
    """The number of frames and their (height, width)."""
    with _container(path) as container:
        if not container.streams.video:
            raise BrokenPictureError(f"video {brief(path.name)} has no video stream")
        stream = container.streams.video[0]
        size = (stream.codec_context.height, stream.codec_context.width)
        # Some formats don't store the number of frames; a packet holds one frame.
        total = stream.frames or sum(packet.size > 0 for packet in container.demux(stream))
    limit = Image.MAX_IMAGE_PIXELS
    if total == 0 or (limit and size[0] * size[1] > limit):
        raise ValueError(
            f"video {brief(path.name)} has {total} frames of {size[1]} x {size[0]} pixels; "
            f"give a video with frames of at most {limit} pixels"
        )
    return total, size
