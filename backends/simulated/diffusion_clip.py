"""What does a simulated diffusion replica show? A real H.264 MP4 of the asked size and length."""

import io
from functools import lru_cache

SCRATCH_GREY = 128


@lru_cache(maxsize=16)
def clip(width: int, height: int, frames: int, fps: int) -> bytes:
    """Encode a ramp that moves; H.264 in 4:2:0 has even sides, so an odd one loses a pixel."""
    import av  # its libraries take a moment to load, and only this needs them

    width, height = width // 2 * 2, height // 2 * 2
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=fps, options={"preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for number in range(frames):
            frame = av.VideoFrame(width, height, "yuv420p")
            for plane in frame.planes:
                plane.update(bytes([SCRATCH_GREY]) * plane.buffer_size)
            luma = frame.planes[0]
            line = bytes((column + 4 * number) % 220 + 16 for column in range(luma.line_size))
            luma.update(line * (luma.buffer_size // luma.line_size))
            for packet in stream.encode(frame):
                container.mux(packet)
        for packet in stream.encode(None):
            container.mux(packet)
    return file.getvalue()
