"""What a run refuses before TensorFlow is even imported, and the data it prepares."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from firmware_bridge.errors import (
    AuditError,
    BundleError,
    ConfigError,
    CxrEdgeError,
    InputError,
    ModelError,
    ResourceError,
)
from firmware_bridge.preprocess import Preprocessing
from toolkit import preflight
from toolkit.cli.main import run as cxr_edge
from toolkit.config import TrainConfig
from toolkit.data.index import Index
from toolkit.data.load import geometric_and_tonal, load, load_one, stretch_back
from toolkit.files import only_here, remember_content, require_unchanged, write_atomically
from toolkit.quiet import quiet
from toolkit.train_qat import prepare_data, train_qat

CONFIG = TrainConfig(name="t", size_px=64, batch_size=8)


def _silent(_: str) -> None:
    pass


@pytest.fixture
def leaking(samples: Path) -> Index:
    """The samples with one patient of training in validation too."""
    index = Index.read(samples / "index.csv")
    patient = index.select(split="train").rows[0].patient_id
    moved = index.select(split="validation").rows[0].path
    return index.with_rows(replace(row, patient_id=patient) if row.path == moved else row for row in index)


def test_leaking_splits_are_refused_with_a_report(leaking: Index, tmp_path: Path) -> None:
    leaking.write(tmp_path / "index.csv")
    with pytest.raises(AuditError, match="splits leak") as caught:
        train_qat(tmp_path / "index.csv", CONFIG, out=tmp_path, say=_silent)
    assert caught.value.exit_code == 4
    assert (tmp_path / "t" / "audit.html").is_file()
    assert cxr_edge(["train-qat", str(tmp_path / "index.csv"), "--out", str(tmp_path), "--name", "t"]) == 4


def test_leaking_splits_are_taken_when_told(leaking: Index, tmp_path: Path) -> None:
    config = replace(CONFIG, allow_leaks=True)
    index, report = prepare_data(leaking, config, folder=tmp_path / "t", say=_silent)
    assert report.leaks
    assert index == leaking


def test_an_index_without_splits_is_split_by_patient(samples: Path, tmp_path: Path) -> None:
    given = Index.read(samples / "index.csv")
    bare = given.with_rows(replace(row, split="") for row in given)
    config = replace(CONFIG, validation_share=0.2, test_share=0.2)
    index, report = prepare_data(bare, config, folder=tmp_path / "t", say=_silent)
    assert not report.leaks
    sides: dict[str, set[str]] = {}
    for row in index:
        sides.setdefault(row.patient_id, set()).add(row.split)
    assert all(len(splits) == 1 for splits in sides.values())
    again, _ = prepare_data(bare, config, folder=tmp_path / "u", say=_silent)
    assert again == index


def test_a_run_that_was_begun_goes_on_with_the_same_xrays_alone(samples: Path, tmp_path: Path) -> None:
    given = Index.read(samples / "index.csv")
    bare = given.with_rows(replace(row, split="") for row in given)
    begun, _ = prepare_data(bare, CONFIG, folder=tmp_path / "t", say=_silent)
    begun.write(tmp_path / "t" / "index.csv")
    assert prepare_data(bare, CONFIG, folder=tmp_path / "t", say=_silent)[0] == begun
    more = bare.with_rows([*bare, replace(bare.rows[0], path=tmp_path / "new.jpg", patient_id="new")])
    for other in (more, bare.with_rows(bare.rows[1:])):
        with pytest.raises(ConfigError, match="run on other X-rays"):
            prepare_data(other, CONFIG, folder=tmp_path / "t", say=_silent)


def test_a_test_split_that_is_kept_leaves_xrays_out_and_the_run_goes_on(samples: Path, tmp_path: Path) -> None:
    given = Index.read(samples / "index.csv")
    rows = [row if row.split == "test" else replace(row, split="") for row in given]
    # One more X-ray of a patient who is in the test that is kept: it can go nowhere.
    tested = next(row for row in rows if row.split == "test")
    free = next(i for i, row in enumerate(rows) if not row.split)
    rows[free] = replace(rows[free], patient_id=tested.patient_id)
    kept = given.with_rows(rows)
    begun, _ = prepare_data(kept, CONFIG, folder=tmp_path / "t", say=_silent)
    assert len(begun) == len(kept) - 1
    begun.write(tmp_path / "t" / "index.csv")
    assert prepare_data(kept, CONFIG, folder=tmp_path / "t", say=_silent)[0] == begun


@pytest.mark.parametrize("option", ["weights", "teacher"])
def test_weights_and_teachers_that_learned_from_what_is_held_out_are_refused(
    samples: Path, tmp_path: Path, option: str
) -> None:
    index = Index.read(samples / "index.csv")
    earlier = tmp_path / "earlier"
    weights = earlier / "float" / "final.weights.h5"
    weights.parent.mkdir(parents=True)
    weights.touch()
    config = replace(CONFIG, **{option: str(weights if option == "weights" else earlier)})  # type: ignore[arg-type]
    index.write(earlier / "index.csv")
    prepare_data(index, config, folder=tmp_path / "same", say=_silent)
    turned = {"train": "test", "test": "train"}
    index.with_rows(replace(row, split=turned.get(row.split, row.split)) for row in index).write(earlier / "index.csv")
    learned = len(index.select(split="test"))
    with pytest.raises(AuditError, match=rf"(?s)what --{option} names was trained on.*{learned} of them"):
        prepare_data(index, config, folder=tmp_path / "other", say=_silent)
    prepare_data(index, replace(config, allow_leaks=True), folder=tmp_path / "told", say=_silent)


def test_an_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "xrays").mkdir()
    with pytest.raises(InputError):
        train_qat(tmp_path / "xrays", CONFIG, out=tmp_path, say=_silent)


def test_one_class_only_or_a_positive_label_that_nobody_has(samples: Path, tmp_path: Path) -> None:
    index = Index.read(samples / "index.csv")
    index.with_rows(row for row in index if row.label == "pneumonia").write(tmp_path / "one.csv")
    with pytest.raises(InputError, match="both classes"):
        train_qat(tmp_path / "one.csv", CONFIG, out=tmp_path, say=_silent)
    with pytest.raises(InputError, match="labelled 'effusion'"):
        train_qat(samples / "index.csv", replace(CONFIG, positive="effusion"), out=tmp_path, say=_silent)
    assert not (tmp_path / "t").exists()


def test_weights_that_are_not_there_are_missed_early(samples: Path, tmp_path: Path) -> None:
    config = replace(CONFIG, weights=str(tmp_path / "none.weights.h5"))
    with pytest.raises(ConfigError, match="is not there"):
        train_qat(samples / "index.csv", config, out=tmp_path, say=_silent)


def test_shipped_weights_of_another_backbone_and_missing_teachers_are_told_early(samples: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"(?s)another backbone.*--backbone efficientnet-lite0"):
        train_qat(samples / "index.csv", replace(CONFIG, weights="cxr-edge/kermany"), out=tmp_path, say=_silent)
    with pytest.raises(BundleError, match="nowhere"):
        train_qat(samples / "index.csv", replace(CONFIG, teacher="nowhere"), out=tmp_path, say=_silent)
    assert not (tmp_path / "t").exists()


def test_too_little_memory(samples: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "available_bytes", lambda: 500_000_000)
    with pytest.raises(ResourceError, match="not enough memory") as caught:
        train_qat(samples / "index.csv", CONFIG, out=tmp_path, say=_silent)
    assert "0.5 GB free" in str(caught.value)
    assert "--batch-size" in str(caught.value)


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_a_split_that_cannot_be_read_is_told_before_the_training(samples: Path, tmp_path: Path, split: str) -> None:
    index = Index.read(samples / "index.csv")
    index.with_rows(replace(row, path=tmp_path / row.path.name) if row.split == split else row for row in index).write(
        tmp_path / "index.csv"
    )
    with pytest.raises(InputError, match=f"none of the X-rays of the {split} split can be read"):
        train_qat(tmp_path / "index.csv", CONFIG, out=tmp_path, say=_silent)
    assert not (tmp_path / "t" / "config.toml").exists()


def test_two_processes_do_not_share_a_run(tmp_path: Path) -> None:
    program = (
        "import sys\nfrom pathlib import Path\nfrom toolkit.files import only_here\n"
        "with only_here(Path(sys.argv[1])):\n    print('in', flush=True)\n    sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "t")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "in\n"
        with pytest.raises(ConfigError, match="another process works in"), only_here(tmp_path / "t"):
            pass
        other.kill()
    left, own = (tmp_path / "t" / "float" / name for name in (".123.part.final.weights.h5", ".film.part.mkv"))
    for path in (left, own):
        write_atomically(path, "half")
    with only_here(tmp_path / "t"):
        assert not left.exists()
        assert own.exists()


def test_weights_that_rotted_are_told(tmp_path: Path) -> None:
    path = tmp_path / "final.weights.h5"
    path.write_bytes(b"weights")
    require_unchanged(path)  # of a run from before the sums
    remember_content(path)
    require_unchanged(path)
    path.write_bytes(b"weighty")
    with pytest.raises(ModelError, match="has changed since it was written"):
        require_unchanged(path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written(samples: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir(mode=0o500)
    with pytest.raises(ResourceError, match="cannot be written"):
        train_qat(samples / "index.csv", CONFIG, out=tmp_path / "out", say=_silent)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MB."""
    if os.geteuid() != 0:
        pytest.skip("needs root to mount a small file system")
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"needs leave to mount: {mounted.stderr.decode()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_is_too_small_is_told_before_training(samples: Path, small_disk: Path) -> None:
    with pytest.raises(ResourceError, match="not enough disk space") as caught:
        train_qat(samples / "index.csv", CONFIG, out=small_disk, say=_silent)
    assert caught.value.exit_code == 8


def test_a_full_disk_leaves_what_was_there(small_disk: Path) -> None:
    target = small_disk / "a.json"
    write_atomically(target, "old")
    with pytest.raises(ResourceError, match="the disk is full"):
        write_atomically(target, b"x" * 8_000_000)
    assert target.read_text() == "old"
    assert list(small_disk.iterdir()) == [target]


def test_unreadable_xrays_are_left_out_and_named(samples: Path, tmp_path: Path) -> None:
    rows = Index.read(samples / "index.csv").rows[:3]
    bad = tmp_path / "bad ü\n.jpg"
    bad.write_bytes(b"")
    wanted = [rows[0], replace(rows[1], path=bad), rows[2], replace(rows[1], path=tmp_path / "gone.png")]
    for _ in range(2):  # from the files, then from the cache
        loaded = load(wanted, Preprocessing.default(64), cache=tmp_path / "cache")
        assert loaded.rows == (rows[0], rows[2])
        assert loaded.pixels.shape == (2, 64, 64)
        assert [path for path, _ in loaded.unreadable] == [bad, tmp_path / "gone.png"]
    assert len(list((tmp_path / "cache").iterdir())) == 2
    next((tmp_path / "cache").glob("*.npy")).write_bytes(b"damaged")
    assert load(wanted, Preprocessing.default(64), cache=tmp_path / "cache").rows == (rows[0], rows[2])


def test_nothing_readable_is_an_error(samples: Path, tmp_path: Path) -> None:
    row = replace(Index.read(samples / "index.csv").rows[0], path=tmp_path / "none.jpg")
    with pytest.raises(InputError, match="none of the X-rays can be read"):
        load([row], Preprocessing.default(64))


def test_geometric_then_tonal_steps_are_the_whole(samples: Path) -> None:
    row = Index.read(samples / "index.csv").rows[0]
    whole = Preprocessing.default(64)
    geometric, tonal = geometric_and_tonal(whole)
    assert tonal is not None
    np.testing.assert_array_equal(tonal.apply(load_one(row, geometric)), load_one(row, whole))


def test_a_squashed_xray_is_stretched_back(samples: Path) -> None:
    row = Index.read(samples / "index.csv").rows[0]
    pixels = np.zeros((100, 100), np.uint8)
    assert stretch_back(pixels, replace(row, width_px=2000, height_px=1000)).shape == (100, 200)
    assert stretch_back(pixels, replace(row, width_px=1010, height_px=1000)) is pixels
    assert stretch_back(pixels, replace(row, width_px=None, height_px=None)) is pixels


def test_chatter_is_held_back_and_everything_else_comes_through(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("toolkit.quiet._WANTED", False)
    with quiet():
        os.write(2, b"INFO: Created TensorFlow Lite XNNPACK delegate for CPU.\nI0000 00:00:1.2 3 port.cc:1] x\n")
        os.write(2, b"something serious\n")
    assert capfd.readouterr().err == "something serious\n"
    with pytest.raises(CxrEdgeError), quiet():
        raise ConfigError("what", expected="a", came="b", do="c")
