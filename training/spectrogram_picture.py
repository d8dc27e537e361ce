"""Features as PNG pictures, without a plotting library: time to the right, frequency upwards."""

import struct
import zlib

import numpy as np

LOWEST, HIGHEST = -1.6, 1.8  # normalised features beyond these look like the ends of the palette
# From silence to loud: as matplotlib's magma, whose colours are as far apart as their values.
PALETTE = np.array(
    [
        (0, 0, 4),
        (40, 17, 89),
        (114, 31, 129),
        (182, 54, 121),
        (241, 96, 93),
        (254, 176, 120),
        (252, 253, 191),
    ],
    dtype=np.float64,
)


def picture(features_TF: np.ndarray) -> bytes:
    """A PNG with one pixel a frame and band."""
    share_FT = np.clip((features_TF.T[::-1] - LOWEST) / (HIGHEST - LOWEST), 0, 1)
    places = np.linspace(0, 1, len(PALETTE))
    channels = [np.interp(share_FT, places, PALETTE[:, channel]) for channel in range(3)]
    return png(np.stack(channels, axis=-1).round().astype(np.uint8))


def png(rgb_HWC: np.ndarray) -> bytes:
    """uint8 (height, width, 3) as a PNG file."""
    height, width, _ = rgb_HWC.shape
    rows = b"".join(b"\0" + row.tobytes() for row in np.ascontiguousarray(rgb_HWC))
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows, 9)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, content) for kind, content in chunks)


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
