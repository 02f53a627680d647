"""The bare loop beside the agent: reads and decodes in one thread, scores in another, and keeps nothing.

To score is to find the lungs, judge whether the picture is fit, cut and scale it, run the model and calibrate what it
says, as the agent does. Not here: hashes, claims, journal, audit log, heat map, record, JSON, syncs.
"""

from __future__ import annotations

import json
import queue
import sys
import threading
import time
from pathlib import Path

import cv2

from firmware_bridge.bundle import open_bundle
from firmware_bridge.decode import Decoded, decode

_QUEUED = 2  # as the agent's


def score_folder(bundle_file: Path, folder: Path) -> tuple[int, float]:
    """Score every file of a folder; how many, and the seconds from the first read to the last score.

    Raises:
        BundleError: see `open_bundle`.
        ImageError: a file cannot be decoded.
    """
    paths = sorted(folder.glob("*.jpg"))
    images: queue.Queue[Decoded | None] = queue.Queue(_QUEUED)
    with open_bundle(bundle_file) as bundle:
        scorer = bundle.scorer(threads=1)
        min_side_px = scorer.preprocessing.decode_min_side_px

        def read() -> None:
            try:
                for path in paths:
                    images.put(decode(path.read_bytes(), min_side_px=min_side_px))
            finally:
                images.put(None)

        start_s = time.perf_counter()
        thread = threading.Thread(target=read)
        thread.start()
        count = 0
        while (decoded := images.get()) is not None:
            scorer.score_decoded(decoded)
            count += 1
        seconds = time.perf_counter() - start_s
        thread.join()
    return count, seconds


if __name__ == "__main__":
    cv2.setNumThreads(1)  # as the agent does: a pool only takes time from the two threads
    files, seconds = score_folder(Path(sys.argv[1]), Path(sys.argv[2]))
    sys.stdout.write(json.dumps({"files": files, "seconds": seconds}) + "\n")
