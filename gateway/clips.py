"""What does a clip look like at a glance? Its thumbnail and its spritesheet, as WebP."""

import io
import itertools
import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from av import VideoFrame

SHEET_COLUMNS = 4
MOST_TILES = 16
TILE_WIDTH = 320


def thumbnail(video: bytes) -> bytes:
    """Give the first frame. Raises ValueError where there is none to be read."""
    return _sheet(video, tiles=1, columns=1, width=None)


def spritesheet(video: bytes) -> bytes:
    """Give up to 16 frames, evenly spread, four in a row. Raises ValueError."""
    return _sheet(video, tiles=MOST_TILES, columns=SHEET_COLUMNS, width=TILE_WIDTH)


def _sheet(video: bytes, *, tiles: int, columns: int, width: int | None) -> bytes:
    try:
        import av  # its libraries take a moment to load, and only this needs them
    except ModuleNotFoundError as error:
        raise ValueError("stills need the extra `video`") from error
    try:
        with av.open(io.BytesIO(video), "r") as container:
            source = container.streams.video[0]
            total = source.frames or len([*container.decode(source)])
            container.seek(0)
            tiles = min(tiles, total)
            columns = min(columns, tiles)
            rows = math.ceil(tiles / columns)
            wanted = {number * total // tiles for number in range(tiles)}
            graph = av.filter.Graph()
            head = graph.add_buffer(template=source)
            links = [head]
            if width is not None and source.width > width:
                links.append(graph.add("scale", f"{width}:-2"))
            links += [graph.add("tile", f"{columns}x{rows}"), graph.add("buffersink")]
            for before, after in itertools.pairwise(links):
                before.link_to(after)
            graph.configure()
            for number, frame in enumerate(container.decode(source)):
                if number in wanted:
                    graph.push(frame)
                if number >= max(wanted):
                    break
            graph.push(None)
            found = graph.pull()
    except (av.error.FFmpegError, IndexError, ZeroDivisionError, OSError) as error:
        raise ValueError(f"not a clip: {error}") from error
    if not isinstance(found, av.VideoFrame):
        raise ValueError("not a clip")
    return _webp(found)


def _webp(frame: "VideoFrame") -> bytes:
    import av

    file = io.BytesIO()
    with av.open(file, "w", format="webp") as container:
        stream = container.add_stream("libwebp", rate=1)
        stream.width, stream.height, stream.pix_fmt = frame.width, frame.height, "yuv420p"
        picture = frame.reformat(format="yuv420p")
        picture.pts = 0
        for packet in (*stream.encode(picture), *stream.encode(None)):
            container.mux(packet)
    return file.getvalue()
