"""What ``convkit run`` takes besides files and folders, and the video that it draws."""

from __future__ import annotations

import json
import resource
import shutil
import weakref
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from support.blobs import draw_blobs
from support.disks import small_disk

from convkit.cli.run import _in_step
from convkit.errors import InputError
from convkit.processing import Frame, ImageReader
from convkit.runtime import load


def write_video(path: str, count: int, rate: float = 12.5) -> None:
    code = "MJPG" if path.endswith(".avi") else "mp4v"
    writer = cv2.VideoWriter(path, cv2.VideoWriter.fourcc(*code), rate, (96, 64))
    assert writer.isOpened()
    for seed in range(count):
        writer.write(draw_blobs(seed)[0])
    writer.release()


def read_video(path: str) -> tuple[list[np.ndarray], float]:
    capture = cv2.VideoCapture(path)
    rate, images = capture.get(cv2.CAP_PROP_FPS), []
    while (found := capture.read())[0]:
        images.append(found[1])
    capture.release()
    return images, rate


@pytest.fixture
def pictures(tmp_path) -> Path:
    """Three pictures in two folders."""
    for seed, name in enumerate(("pictures/0.png", "pictures/deep/1.png", "pictures/deep/2.bmp")):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(name, draw_blobs(seed)[0])
    return Path("pictures")


def names(said) -> list[str]:
    return [json.loads(line)["image"] for line in said.lines]


def test_patterns_that_the_shell_left_are_expanded(cli, blob_artifact, pictures):
    said = cli("run", blob_artifact.path, "pictures/**/*.png", "pictures/d*", "--json")
    assert names(said) == [f"pictures/{name}" for name in ("0.png", "deep/1.png", "deep/1.png", "deep/2.bmp")]
    (pictures / "a[1].png").write_bytes((pictures / "0.png").read_bytes())
    assert names(cli("run", blob_artifact.path, "pictures/a[1].png", "--json")) == ["pictures/a[1].png"]
    said = cli("run", blob_artifact.path, "pictures/*.webp")
    assert (said.code, said.out) == (1, "")
    assert "Nothing matches pictures/*.webp" in said.err


def test_the_images_that_a_coco_file_lists_are_run_in_its_order(cli, blob_artifact, pictures):
    Path("list.json").write_text(json.dumps({"images": [{"file_name": "deep/2.bmp"}, {"file_name": "0.png", "id": 4}]}))
    listed = ["pictures/deep/2.bmp", "pictures/0.png"]
    assert names(cli("run", blob_artifact.path, "--coco", "list.json", "--images", "pictures", "--json")) == listed
    Path("list.json").rename("pictures/list.json")
    said = cli("run", blob_artifact.path, "pictures/0.png", "--coco", "pictures/list.json", "--json", "--limit", "2")
    assert names(said) == ["pictures/0.png", listed[0]]
    (pictures / "0.png").unlink()
    said = cli("run", blob_artifact.path, "--coco", "pictures/list.json")
    assert (said.code, said.out) == (1, "")
    assert "pictures/0.png is missing" in said.err
    said = cli("run", blob_artifact.path, "--coco", "pictures/list.json", "--json", "--skip-bad")
    assert names(said) == listed[:1]
    assert "skipped: There is no image pictures/0.png" in said.err
    assert "1 of 2 skipped" in said.err


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ("[1, 2]", "Expected `object`, got `array`"),
        ('{"images": 3}', "Expected `array`, got `int` - at `$.images`"),
        ('{"pictures": []}', "missing required field `images`"),
        ('{"images": [{"name": "0.png"}]}', "file_name is None"),
        ('{"images": []}', "it lists no images"),
        ("{", "is not a COCO file"),
    ],
)
def test_a_list_that_is_none_says_what_is_wrong_with_it(cli, blob_artifact, pictures, document, message):
    Path("list.json").write_text(document)
    said = cli("run", blob_artifact.path, "--coco", "list.json", "--images", "pictures")
    assert (said.code, said.out) == (1, "")
    assert message in said.err


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ((), 2, "There is no input"),
        (("pictures", "--images", "pictures"), 2, "--images is the folder of the images of --coco"),
        (("--coco", "nowhere.json"), 1, "nowhere.json cannot be read"),
        (("--coco", "pictures/0.png"), 1, "is not a COCO file"),
        (("pictures", "--batch", "0"), 2, "--batch 0 is no number"),
        (("pictures", "--batch", "all"), 2, "--batch all is no number"),
        (("pictures", "--save-video", "a.webm"), 1, "Known file types are .avi, .mov, .mp4"),
        (("pictures", "--save-video", "no/a.mp4"), 1, "There is no folder no"),
        (("pictures", "--save-video", "a.mp4", "--npz", "out"), 2, "cannot be drawn"),
        (("http://127.0.0.1:9/clip.mp4",), 1, "http://127.0.0.1:9/clip.mp4 gives no image"),
        (("http://me:secret@127.0.0.1:9/clip.mp4",), 1, "http://***@127.0.0.1:9/clip.mp4 gives no image"),
        (("77",), 1, "There is no camera 77"),
    ],
)
def test_what_cannot_be_run_is_one_error(cli, blob_artifact, pictures, words, code, message):
    said = cli("run", blob_artifact.path, *words)
    assert (said.code, said.out) == (code, "")
    assert message in said.err
    assert "secret" not in said.err


def test_a_camera_and_a_stream_give_their_images(cli, blob_artifact, monkeypatch):
    write_video("clip.avi", 3)
    opened = []
    capture = cv2.VideoCapture

    def stand_in(address):
        opened.append(address)
        return capture("clip.avi")

    monkeypatch.setattr(cv2, "VideoCapture", stand_in)
    said = cli("run", blob_artifact.path, "0", "rtsp://me:secret@host:554/live/1", "--json", "--draw", "out")
    assert opened == [0, "rtsp://me:secret@host:554/live/1"]
    shown = ("camera 0", "rtsp://***@host:554/live/1")
    assert names(said) == [f"{source}#{index}" for source in shown for index in range(3)]
    assert "secret" not in said.err
    assert "camera 0 ended after 3 images" in said.err
    stems = ("camera-0", "host-554-live-1")
    assert sorted(path.name for path in Path("out").iterdir()) == [f"{s}_{i:06d}.jpg" for s in stems for i in range(3)]
    Path("0").mkdir()
    cv2.imwrite("0/a.png", draw_blobs(0)[0])
    assert names(cli("run", blob_artifact.path, "0", "--json")) == ["0/a.png"]


def test_auto_takes_a_batch_that_the_artifact_allows_and_changes_nothing(cli, blob_artifact, pictures):
    said = cli("run", blob_artifact.path, "pictures/deep", "--json", "--batch", "auto")
    most = load(blob_artifact.path).batch_max
    assert f"batch: {most}" in said.err
    assert said.out == cli("run", blob_artifact.path, "pictures/deep", "--json").out


@pytest.mark.parametrize("name", ["out.mp4", "out.avi"])
def test_the_saved_video_has_the_drawings_at_the_rate_of_the_source(cli, blob_artifact, name):
    write_video("clip.avi", 4)
    said = cli("run", blob_artifact.path, "clip.avi", "--save-video", name, "--draw", "drawn", "--batch", "2")
    assert said.code == 0
    assert f"4 images in {name}" in said.err
    images, rate = read_video(name)
    assert rate == 12.5
    drawn = [cv2.imread(str(path)) for path in sorted(Path("drawn").iterdir())]
    assert len(images) == len(drawn) == 4
    away = [[np.abs(a.astype(int) - b).mean() for b in drawn] for a in images]
    assert [int(np.argmin(row)) for row in away] == [0, 1, 2, 3]
    assert max(min(row) for row in away) < 8
    assert sorted(path.name for path in Path.cwd().iterdir() if path.is_file()) == ["clip.avi", name]
    assert cli("run", blob_artifact.path, "clip.avi", "--save-video", name, "--limit", "1").code == 0
    assert len(read_video(name)[0]) == 1


def test_a_saved_video_overwrites_no_input_and_nothing_else(cli, blob_artifact):
    write_video("clip.mp4", 2)
    before = Path("clip.mp4").read_bytes()
    Path("link.mp4").symlink_to("clip.mp4")
    for target, message in (("clip.mp4", "clip.mp4, an input"), ("./link.mp4", "link.mp4, an input")):
        said = cli("run", blob_artifact.path, "clip.mp4", "--save-video", target)
        assert (said.code, said.out) == (1, "")
        assert f"The video would overwrite {message}" in said.err
    Path("mine.mp4").write_bytes(before)
    assert "no video of convkit" in cli("run", blob_artifact.path, "clip.mp4", "--save-video", "mine.mp4").err
    assert Path("clip.mp4").read_bytes() == Path("mine.mp4").read_bytes() == before


def test_images_of_several_sizes_fit_into_the_first(cli, blob_artifact, pictures):
    cv2.imwrite("pictures/1.png", np.full((64, 300, 3), 200, np.uint8))
    said = cli("run", blob_artifact.path, "pictures", "--save-video", "out.avi")
    assert "other sizes than the first were scaled" in said.err
    images, rate = read_video("out.avi")
    assert ([image.shape for image in images], rate) == ([(64, 96, 3)] * 2, 25)
    assert images[1][30:34].mean() > 150
    assert images[1][:15].mean() < 20


def test_what_came_before_a_damaged_frame_is_in_the_results_and_the_video(cli, blob_artifact):
    write_video("clip.mp4", 40)
    content = bytearray(Path("clip.mp4").read_bytes())
    middle = len(content) // 2
    content[middle : middle + len(content) // 6] = bytes(len(content) // 6)
    Path("clip.mp4").write_bytes(content)
    said = cli("run", blob_artifact.path, "clip.mp4", "--save-video", "out.mp4", "--json", "--batch", "4")
    assert said.code == 1
    assert 4 < len(said.lines) < 36
    assert f"clip.mp4 is cut off or damaged: it declares 40 frames, {len(said.lines)} could be read" in said.err
    assert len(read_video("out.mp4")[0]) == len(said.lines)


def test_ctrl_c_keeps_the_video_so_far(cli, blob_artifact, monkeypatch):
    write_video("clip.avi", 5)
    frames = cv2.VideoCapture

    class Interrupted:
        def __init__(self, path):
            self.inner, self.left = frames(path), 3

        def read(self):
            self.left -= 1
            if self.left < 0:
                raise KeyboardInterrupt
            return self.inner.read()

        def __getattr__(self, name):
            return getattr(self.inner, name)

    with monkeypatch.context() as patch:
        patch.setattr(cv2, "VideoCapture", lambda path: Interrupted(path) if path == "clip.avi" else frames(path))
        said = cli("run", blob_artifact.path, "clip.avi", "--save-video", "out.mp4")
    assert said.code == 130
    assert len(said.lines) == len(read_video("out.mp4")[0]) == 3
    assert sorted(path.name for path in Path.cwd().iterdir()) == ["clip.avi", "out.mp4"]


def test_a_video_that_the_disk_cannot_take_is_an_error_and_leaves_nothing(cli, blob_artifact):
    write_video("clip.avi", 8)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (9_000, limits[1]))
    try:
        said = cli("run", blob_artifact.path, "clip.avi", "--save-video", "out.avi")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert said.code == 5
    assert len(said.lines) == 1
    assert "No room to write out.avi: File too large" in said.err
    assert [path.name for path in Path.cwd().iterdir()] == ["clip.avi"]


def test_a_video_ends_before_the_disk_is_full(cli, blob_artifact, monkeypatch):
    write_video("clip.avi", 8)
    free = iter([1 << 30, 1 << 30, 1 << 30, 1 << 20])
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=next(free)))
    said = cli("run", blob_artifact.path, "clip.avi", "--save-video", "out.avi")
    assert said.code == 5
    assert "No room to write out.avi: No space left on device; it has the first 3 images" in said.err
    assert len(read_video("out.avi")[0]) == 3
    free = iter([0])
    said = cli("run", blob_artifact.path, "clip.avi", "--save-video", "none.avi")
    assert said.code == 5
    assert not Path("none.avi").exists()


def test_a_video_ends_before_a_quota_is_used_up(cli, blob_artifact, tmp_path, monkeypatch):
    """A quota shows in what may be written, not in what the disk has free."""
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1 << 40))
    rng = np.random.default_rng(0)
    for index in range(9):
        cv2.imwrite(f"{index}.png", rng.integers(0, 255, (480, 640, 3), np.uint8))
    with small_disk(tmp_path / "disk", 4500):
        said = cli("run", blob_artifact.path, *(f"{index}.png" for index in range(9)), "--save-video", "disk/out.avi")
        assert said.code == 5
        assert "No room to write disk/out.avi: " in said.err
        assert len(said.lines) < 9
        if len(said.lines) > 1:  # a small disk could be mounted
            assert f"it has the first {len(said.lines) - 1} images" in said.err
            assert len(read_video("disk/out.avi")[0]) == len(said.lines) - 1
        assert [path.name for path in Path("disk").iterdir()] == ["out.avi"] * (len(said.lines) > 1)


def test_of_a_long_video_only_the_images_of_two_batches_are_in_memory(blobs, blob_artifact):
    alive: weakref.WeakValueDictionary[int, np.ndarray] = weakref.WeakValueDictionary()
    most = 0

    def frames():
        nonlocal most
        for index in range(60):
            image = np.zeros((64, 96, 3), np.uint8)
            alive[index] = image
            yield Frame(str(index), f"{index}.png", image)
            del image
            most = max(most, len(alive))

    with load(blob_artifact.path) as predictor:
        assert sum(1 for _ in _in_step(predictor, frames(), 4, raw=False)) == 60
    assert most <= 8


@pytest.fixture
def tinted(monkeypatch) -> None:
    """Let a file or value ``shade`` belong to each image, which makes it darker; the files contain one number."""

    def join(self, raw, companions):
        value = companions["shade"]
        if isinstance(value, Path):
            value = value.read_text()
        try:
            return (raw * float(value)).astype(np.uint8)
        except ValueError as error:
            raise InputError(f"{value!r} is no shade.", hint="Give a number.") from error

    monkeypatch.setattr(ImageReader, "companions", ("shade",))
    monkeypatch.setattr(ImageReader, "join", join)


def counts(said) -> list[int]:
    return [len(json.loads(line)["detections"]) for line in said.lines]


def test_what_belongs_to_an_input_comes_from_a_folder_a_file_or_a_list(cli, blob_artifact, pictures, tinted):
    write_video("clip.avi", 2)
    for name, shade in (("0", "1"), ("1", "0"), ("2", "1"), ("clip", "0")):
        Path("shades").mkdir(exist_ok=True)
        Path(f"shades/{name}.txt").write_text(shade)
    inputs = ("pictures/0.png", "pictures/deep", "clip.avi")
    plain = counts(cli("run", blob_artifact.path, *inputs, "--json"))
    assert all(plain)
    said = cli("run", blob_artifact.path, *inputs, "--json", "--with", "shade=shades")
    assert counts(said) == [plain[0], 0, plain[2], 0, 0]
    assert counts(cli("run", blob_artifact.path, *inputs, "--json", "--with", "shade=shades/1.txt")) == [0] * 5
    entries = [{"file_name": "0.png", "shade": 0}, {"file_name": "deep/1.png", "other": 0}]
    Path("pictures/list.json").write_text(json.dumps({"images": entries}))
    listed = ("run", blob_artifact.path, "--coco", "pictures/list.json", "--json")
    assert counts(cli(*listed)) == [0, plain[1]]
    assert counts(cli(*listed, "--with", "shade=shades")) == [plain[0], 0]


def test_a_companion_that_is_missing_or_wrong_is_an_error_of_its_input(cli, blob_artifact, pictures, tinted):
    Path("shades").mkdir()
    Path("shades/1.txt").write_text("1")
    Path("shades/2.txt").write_text("dark")
    words = ("run", blob_artifact.path, "pictures/deep", "pictures/0.png", "--with", "shade=shades")
    said = cli(*words)
    assert (said.code, len(said.lines)) == (1, 1)
    assert "error: pictures/deep/2.bmp: 'dark' is no shade" in said.err
    skipping = cli(*words, "--skip-bad")
    assert (skipping.code, skipping.lines) == (0, said.lines)
    assert "skipped: pictures/deep/2.bmp: 'dark' is no shade" in skipping.err
    assert "skipped: pictures/0.png: shades has no file for it" in skipping.err
    Path("shades/1.yaml").write_text("1")
    assert "shades has several files for it: 1.txt, 1.yaml" in cli(*words).err


@pytest.mark.parametrize(("value", "code"), [("light=shades", 2), ("shade", 2), ("shade=nowhere", 1)])
def test_a_companion_that_cannot_be(cli, blob_artifact, pictures, tinted, value, code):
    said = cli("run", blob_artifact.path, "pictures", "--with", value)
    assert (said.code, said.out) == (code, "")
    assert "--with" in said.err


def test_a_model_without_companions_refuses_them(cli, blob_artifact, pictures):
    said = cli("run", blob_artifact.path, "pictures", "--with", "calib=pictures")
    assert said.code == 2
    assert "nothing that belongs to an input of this model" in said.err
