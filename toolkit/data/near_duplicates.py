"""The same picture twice, though not byte for byte: compressed again, scaled, cropped a little, turned, other contrast.

Three steps, so that 100,000 X-rays need not be compared pair by pair. Each picture becomes 256 bits; pictures whose
bits nearly agree in one of 32 bands are candidates (multi-index hashing: Norouzi, Punjani & Fleet, CVPR 2012);
candidates are laid over each other and compared on pixels. Chest X-rays look alike, so the last step decides: of 5,856
children's X-rays the nearest two *different* ones reach 0.79, copies changed as said mostly more than 0.9.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

THUMBNAIL_PX = 64
SAME_PICTURE = 0.85
HASH_BITS = 256
RADIUS_BITS = 60
_WORDS = HASH_BITS // 16
_DCT_PX = 32
# Below this many pictures a median says little: two copies alone would differ in every bit.
_MEDIAN_FROM = 1000
# Pairs that are expanded at once, about 200 MB of working memory.
_CHUNK_PAIRS = 1 << 20
_ONES = np.array([bin(word).count("1") for word in range(1 << 16)], dtype=np.uint8)  # (65536,) set bits of a word
_FLAT_STD = 1.0

Thumbnails = npt.NDArray[np.uint8]
Hashes = npt.NDArray[np.uint16]
Pairs = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Candidates:
    """Pairs whose hashes are near.

    Attributes:
        pairs: (M, 2) int64, the first below the second, nearest first.
        compared: how many pairs of hashes were compared to find them.
    """

    pairs: Pairs
    compared: int


@dataclass(frozen=True, slots=True)
class NearDuplicate:
    """Two pictures that show the same exposure: their positions and how alike they are, up to 1."""

    a: int
    b: int
    similarity: float


def thumbnail(pixels: npt.NDArray[np.uint8]) -> Thumbnails:
    """(H, W) uint8 to (64, 64) uint8. The aspect is given up, so a squashed copy still matches."""
    small = cv2.resize(pixels, (THUMBNAIL_PX, THUMBNAIL_PX), interpolation=cv2.INTER_AREA)
    return np.asarray(small, dtype=np.uint8)


def perceptual_hashes(thumbnails: Thumbnails) -> Hashes:
    """Signs of the 256 lowest DCT frequencies (without the mean): brightness, contrast and compression change few.

    In sets of 1,000 and more each frequency is compared with its median over the set: what all chests share would
    make the bits unequal, and the bands below full.

    Args:
        thumbnails: (N, 64, 64) uint8.

    Returns:
        (N, 16) uint16.
    """
    coefficients = _low_frequencies(thumbnails)
    middle = np.median(coefficients, axis=0) if len(thumbnails) >= _MEDIAN_FROM else np.zeros(HASH_BITS, np.float32)
    return _packed(coefficients > middle)


def find_candidates(hashes: Hashes, *, radius_bits: int = RADIUS_BITS) -> Candidates:
    """Find pairs of hashes at most `radius_bits` apart, without comparing all of them.

    The bits are cut into 16 bands of 16, twice, the second time in another order. Only pairs that agree in a band but
    for one bit are compared. Every pair up to 31 bits apart is found for certain (32 differences would fill 16 bands
    with two each), of those 47 apart 99.8% and of those 60 apart 94% where the differences are spread evenly.

    Args:
        hashes: (N, 16) uint16.
        radius_bits: largest Hamming distance.
    """
    bits = np.unpackbits(np.ascontiguousarray(hashes).view(np.uint8), axis=1)  # (N, 256) of {0, 1}
    codes = [np.empty(0, np.int64)]
    compared = 0
    for seed in (0, 1):
        # Neighbouring frequencies go together; shuffled, a band's bits are nearly independent and its buckets small.
        shuffled = _packed(bits[:, np.random.default_rng(seed).permutation(HASH_BITS)].astype(bool))
        for band in range(_WORDS):
            for left, right in _pairs_in_band(shuffled[:, band]):
                compared += len(left)
                near = _ONES[hashes[left] ^ hashes[right]].sum(axis=1, dtype=np.uint16) <= radius_bits
                low, high = np.minimum(left[near], right[near]), np.maximum(left[near], right[near])
                codes.append(low * len(hashes) + high)
    found = np.unique(np.concatenate(codes))  # a pair can be near in several bands
    pairs = np.stack([found // max(1, len(hashes)), found % max(1, len(hashes))], axis=1)
    distance = _ONES[hashes[pairs[:, 0]] ^ hashes[pairs[:, 1]]].sum(axis=1, dtype=np.uint16)
    return Candidates(pairs[np.argsort(distance, kind="stable")], compared)


def similarity(a: Thumbnails, b: Thumbnails) -> float:
    """How alike two pictures are once `b` is laid over `a`: at most 1, about 0.4 for two different chests.

    `b` is moved, turned, scaled and sheared a little (ECC: Evangelidis & Psarakis, PAMI 2008). Then fine structure
    (everything broader than about 1/8 of the picture filtered out) is correlated in 16 blocks. Of these the second
    fifth counts, so that a letter, a box or a cut corner does not.

    Args:
        a: (64, 64) uint8.
        b: (64, 64) uint8.
    """
    still, moving = a.astype(np.float32), b.astype(np.float32)
    warp = np.eye(2, 3, dtype=np.float32)
    everywhere = np.ones(still.shape, np.uint8)
    stop = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 40, 1e-4)
    try:
        _, found = cv2.findTransformECC(
            _fine(still, 4.0), _fine(moving, 4.0), warp.copy(), cv2.MOTION_AFFINE, stop, everywhere, 5
        )
        warp = np.asarray(found, np.float32)
    except cv2.error:  # It did not converge: compared as they lie.
        pass
    size, flags = (THUMBNAIL_PX, THUMBNAIL_PX), cv2.WARP_INVERSE_MAP
    laid = cv2.warpAffine(moving, warp, size, flags=flags | cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    covered = cv2.warpAffine(np.ones_like(moving), warp, size, flags=flags | cv2.INTER_NEAREST) > 0
    covered[:2] = covered[-2:] = covered[:, :2] = covered[:, -2:] = False
    if covered.mean() < 0.5:
        return 0.0
    return _block_correlation(_fine(still, 2.0), _fine(np.asarray(laid, np.float32), 2.0), covered)


def verify(thumbnails: Thumbnails, pairs: Iterator[tuple[int, int]]) -> list[NearDuplicate]:
    """Of candidate pairs, nearest first, those that are the same picture.

    Where three or more pictures are the same, only the pairs that link them are returned, and the others not computed:
    a thousand copies would be half a million pairs. Every two pictures that are linked are still linked by some path.

    Args:
        thumbnails: (N, 64, 64) uint8.
        pairs: positions.
    """
    group = list(range(len(thumbnails)))

    def head(i: int) -> int:
        while group[i] != i:
            group[i] = group[group[i]]
            i = group[i]
        return i

    verified = []
    for a, b in pairs:
        if head(a) == head(b):
            continue
        alike = similarity(thumbnails[a], thumbnails[b])
        if alike >= SAME_PICTURE:
            group[head(b)] = head(a)
            verified.append(NearDuplicate(a, b, round(alike, 4)))
    return verified


def is_flat(picture: Thumbnails) -> bool:
    """Whether a (64, 64) uint8 picture shows nothing: it would be "the same" as every other empty one."""
    return bool(picture.std() < _FLAT_STD)


def _low_frequencies(thumbnails: Thumbnails) -> npt.NDArray[np.float32]:
    k = np.arange(_DCT_PX)
    basis = np.cos(np.pi * (2 * k[None, :] + 1) * k[:, None] / (2 * _DCT_PX)).astype(np.float32)  # DCT-II, (32, 32)
    lowest = np.argsort((k[:, None] ** 2 + k[None, :] ** 2).ravel(), kind="stable")[1 : HASH_BITS + 1]
    out = np.empty((len(thumbnails), HASH_BITS), np.float32)
    step = THUMBNAIL_PX // _DCT_PX
    for start in range(0, len(thumbnails), 1024):
        part = thumbnails[start : start + 1024].astype(np.float32)
        part = part.reshape(-1, _DCT_PX, step, _DCT_PX, step).mean(axis=(2, 4))  # (n, 32, 32)
        out[start : start + 1024] = (basis @ part @ basis.T).reshape(len(part), -1)[:, lowest]
    return out


def _packed(bits: npt.NDArray[np.bool_]) -> Hashes:
    return np.ascontiguousarray(np.packbits(bits, axis=1)).view(np.uint16)


def _pairs_in_band(keys: npt.NDArray[np.uint16]) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
    """Yield (left, right) positions, in chunks, of all pairs whose keys are equal or differ in one bit."""
    order = np.argsort(keys, kind="stable").astype(np.int64)
    in_order = keys[order].astype(np.int64)
    counts = np.bincount(in_order, minlength=1 << 16).astype(np.int64)
    starts = np.cumsum(counts) - counts
    place = np.arange(len(keys), dtype=np.int64)
    # Equal keys: with everyone that follows in the same bucket.
    yield from _expanded(order, place, place + 1, starts[in_order] + counts[in_order] - place - 1)
    for bit in range(16):
        # One bit apart: from the bucket without the bit to the one with it, so that each pair comes once.
        source = place[(in_order >> bit) & 1 == 0]
        other = in_order[source] | (1 << bit)
        yield from _expanded(order, source, starts[other], counts[other])


def _expanded(
    order: npt.NDArray[np.int64],
    source: npt.NDArray[np.int64],
    first: npt.NDArray[np.int64],
    count: npt.NDArray[np.int64],
) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
    some = count > 0
    source, first, count = source[some], first[some], count[some]
    ends = np.cumsum(count)
    at = 0
    while at < len(source):
        done = ends[at - 1] if at else 0
        # At least one source a chunk, though its bucket be larger than a chunk.
        until = max(at + 1, int(np.searchsorted(ends, done + _CHUNK_PAIRS, side="right")))
        n = count[at:until]
        left = np.repeat(source[at:until], n)
        offset = np.arange(len(left), dtype=np.int64) - np.repeat(ends[at:until] - n - done, n)
        yield order[left], order[np.repeat(first[at:until], n) + offset]
        at = until


def _fine(picture: npt.NDArray[np.float32], sigma_px: float) -> npt.NDArray[np.float32]:
    return picture - np.asarray(cv2.GaussianBlur(picture, (0, 0), sigma_px), np.float32)


def _block_correlation(a: npt.NDArray[np.float32], b: npt.NDArray[np.float32], covered: npt.NDArray[np.bool_]) -> float:
    side = THUMBNAIL_PX // 4
    values = []
    for y in range(0, THUMBNAIL_PX, side):
        for x in range(0, THUMBNAIL_PX, side):
            block = (slice(y, y + side), slice(x, x + side))
            inside = covered[block]
            if inside.mean() >= 0.5:
                u, v = a[block][inside], b[block][inside]
                u, v = u - u.mean(), v - v.mean()
                values.append(float(u @ v) / float(np.sqrt((u @ u) * (v @ v)) + 1e-9))
    return float(np.quantile(values, 0.4)) if values else 0.0
