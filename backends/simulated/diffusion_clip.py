"""What does a simulated diffusion replica show? A real H.264 MP4 of the asked size and length.

Written by hand, so that a simulation needs no codec and spends no time on one. A grey picture: its
first frame predicts every macroblock from its neighbours and adds nothing (8 bits each), all others
repeat the one before. ITU-T H.264 (08/2021), Constrained Baseline; ISO/IEC 14496-12 and -15.
"""

import struct
from functools import lru_cache

BLOCK = 16
# Annex A: the levels by frames of so many macroblocks; the last one takes whatever is larger.
_LEVELS = ((396, 20), (1620, 30), (3600, 31), (8192, 40), (22_080, 50), (139_264, 62))
_UNITY = struct.pack(">9I", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)


class _Bits:
    """A bit string with H.264's codes."""

    def __init__(self) -> None:
        self._value = 0
        self._count = 0

    def put(self, value: int, width: int) -> "_Bits":
        """Append `value` in `width` bits."""
        self._value = self._value << width | value
        self._count += width
        return self

    def ue(self, *values: int) -> "_Bits":
        """Append unsigned Exp-Golomb codes."""
        for value in values:
            width = (value + 1).bit_length()
            self.put(value + 1, 2 * width - 1)
        return self

    def unit(self, header: int) -> bytes:
        """End it as a NAL unit: trailing bits, emulation prevention."""
        self.put(1, 1).put(0, -self._count % 8)
        body = bytearray([header])
        zeros = 0
        for byte in self._value.to_bytes(self._count // 8, "big"):
            if zeros == 2 and byte <= 3:
                body.append(3)
                zeros = 0
            body.append(byte)
            zeros = zeros + 1 if byte == 0 else 0
        return bytes(body)


@lru_cache(maxsize=16)
def clip(width: int, height: int, frames: int, fps: int) -> bytes:
    """Give the file; H.264 in 4:2:0 has even sides, so an odd one loses a pixel."""
    width, height = width // 2 * 2, height // 2 * 2
    across, down = -(-width // BLOCK), -(-height // BLOCK)
    sets = _sequence(across, down, width, height), _picture()
    units = [_intra(across * down), *(_repeat(across * down, n) for n in range(1, frames))]
    samples = [struct.pack(">I", len(unit)) + unit for unit in units]
    return _file(samples, sets, width, height, fps)


def _sequence(across: int, down: int, width: int, height: int) -> bytes:
    """Give the sequence parameter set (7.3.2.1): one reference, order of output as decoded."""
    level = next((code for most, code in _LEVELS if across * down <= most), 62)
    bits = _Bits().put(66, 8).put(0b1100_0000, 8).put(level, 8)
    bits.ue(0, 0, 2, 1).put(0, 1).ue(across - 1, down - 1).put(0b1_1, 2)
    right, bottom = (across * BLOCK - width) // 2, (down * BLOCK - height) // 2
    if right or bottom:
        bits.put(1, 1).ue(0, right, 0, bottom)
    else:
        bits.put(0, 1)
    return bits.put(0, 1).unit(0x67)


def _picture() -> bytes:
    """Give the picture parameter set (7.3.2.2): CAVLC, no deblocking to be told of."""
    bits = _Bits().ue(0, 0).put(0, 2).ue(0, 0, 0).put(0, 3)
    return bits.ue(0, 0, 0).put(0b1_0_0, 3).unit(0x68)


def _intra(blocks: int) -> bytes:
    """Give an IDR picture: Intra16x16 by DC without a residual, in one byte per macroblock."""
    bits = _Bits().ue(0, 7, 0).put(0, 4).ue(0).put(0, 2).ue(0, 1)
    one = 0b00100_1_1_1  # mb_type 3, chroma by DC, quantiser as before, no coefficient
    return bits.put(int.from_bytes(bytes([one]) * blocks, "big"), 8 * blocks).unit(0x65)


def _repeat(blocks: int, number: int) -> bytes:
    """Give a P picture that skips every macroblock."""
    bits = _Bits().ue(0, 5, 0).put(number % 16, 4).put(0, 1).put(0, 1).put(0, 1)
    return bits.ue(0, 1).ue(blocks).unit(0x41)


def _box(name: bytes, *parts: bytes) -> bytes:
    body = b"".join(parts)
    return struct.pack(">I", 8 + len(body)) + name + body


def _full(name: bytes, *parts: bytes, flags: int = 0) -> bytes:
    return _box(name, struct.pack(">I", flags), *parts)


def _file(
    samples: list[bytes], sets: tuple[bytes, bytes], width: int, height: int, fps: int
) -> bytes:
    """Put a track of samples into ISO boxes; the media stand before their description."""
    count = len(samples)
    head = _box(b"ftyp", b"isom", struct.pack(">I", 512), b"isomiso2avc1mp41")
    sequence, picture = sets
    config = bytes([1, *sequence[1:4], 0xFF, 0xE1]) + struct.pack(">H", len(sequence)) + sequence
    config += bytes([1]) + struct.pack(">H", len(picture)) + picture
    entry = _box(
        b"avc1",
        struct.pack(">6xH16xHH", 1, width, height),
        struct.pack(">IIIH32xHh", 72 << 16, 72 << 16, 0, 1, 24, -1),
        _box(b"avcC", config),
    )
    table = _box(
        b"stbl",
        _full(b"stsd", struct.pack(">I", 1), entry),
        _full(b"stts", struct.pack(">III", 1, count, 1)),
        _full(b"stss", struct.pack(">II", 1, 1)),
        _full(b"stsc", struct.pack(">IIII", 1, 1, count, 1)),
        _full(b"stsz", struct.pack(f">II{count}I", 0, count, *map(len, samples))),
        _full(b"stco", struct.pack(">II", 1, len(head) + 8)),
    )
    where = _box(b"dinf", _full(b"dref", struct.pack(">I", 1), _full(b"url ", flags=1)))
    media = _box(
        b"mdia",
        _full(b"mdhd", struct.pack(">IIIIHH", 0, 0, fps, count, 0x55C4, 0)),
        _full(b"hdlr", struct.pack(">I4s12x", 0, b"vide"), b"video\0"),
        _box(b"minf", _full(b"vmhd", bytes(8), flags=1), where, table),
    )
    track = _full(
        b"tkhd",
        struct.pack(">IIIII8xHHHH", 0, 0, 1, 0, count, 0, 0, 0, 0),
        _UNITY,
        struct.pack(">II", width << 16, height << 16),
        flags=3,
    )
    movie = _full(
        b"mvhd",
        struct.pack(">IIIIIH10x", 0, 0, fps, count, 1 << 16, 1 << 8),
        _UNITY,
        bytes(24),
        struct.pack(">I", 2),
    )
    return head + _box(b"mdat", *samples) + _box(b"moov", movie, _box(b"trak", track, media))
