"""``convkit run``: images, folders, videos and arrays in, a line or a JSON object an input out."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from support.blobs import Components, Resize, draw_blobs
from support.embedding import EmbeddingNet, embedding_weights
from support.pair import PairNet, pair_inputs, pair_weights

from convkit import Boxes3D, Detections


@pytest.fixture
def folder(tmp_path) -> Path:
    """Make a folder with three pictures."""
    path = tmp_path / "pictures"
    path.mkdir()
    for seed in range(3):
        cv2.imwrite(str(path / f"{seed}.png"), draw_blobs(seed)[0])
    return path


def test_json_is_one_object_a_line_as_documented(cli, blob_artifact, folder):
    said = cli("run", blob_artifact.path, "pictures", "pictures/1.png", "--json")
    assert said.code == 0
    rows = [json.loads(line) for line in said.lines]
    assert [row["image"] for row in rows] == ["pictures/0.png", "pictures/1.png", "pictures/2.png", "pictures/1.png"]
    for seed, row in zip((0, 1, 2, 1), rows, strict=True):
        assert set(row) == {"image", "detections"}
        _, boxes, classes = draw_blobs(seed)
        expected = {(("red", "green")[c], tuple(box)) for box, c in zip(boxes.tolist(), classes.tolist(), strict=True)}
        assert {(found["class_name"], tuple(found["box"])) for found in row["detections"]} == expected
        for found in row["detections"]:
            assert set(found) == {"class_id", "class_name", "score", "box"}
            assert 0.5 < found["score"] <= 1


def test_without_json_each_image_is_a_line_with_its_summary(cli, blob_artifact, folder):
    said = cli("run", blob_artifact.path, "pictures/0.png", "pictures/1.png")
    assert said.code == 0
    counts = [len(draw_blobs(seed)[1]) for seed in (0, 1)]
    assert [line.partition(": ")[2].split()[0] for line in said.lines] == [str(count) for count in counts]
    assert "run: loading" in said.err
    assert cli("run", blob_artifact.path, "pictures/0.png", "-q").err == ""


def test_the_backend_torch_prints_the_same(cli, blob_artifact, folder):
    known = cli("run", blob_artifact.path, "pictures", "--backend", "onnxruntime")
    refused = cli("run", blob_artifact.path, "pictures", "--backend", "torch")
    assert (refused.code, refused.out) == (4, "")
    assert f"convkit validate {blob_artifact.path} --backend torch --device cpu" in " ".join(refused.err.split())
    found = cli("run", blob_artifact.path, "pictures", "--backend", "torch", "--unproved")
    assert "unproved: the conversion proved it on onnxruntime (cpu)" in found.err
    document = cli("run", blob_artifact.path, "pictures", "--backend", "torch", "--unproved", "--json", "-q")
    assert all(json.loads(line)["unproved"] is True for line in document.lines)
    assert document.err.startswith("unproved: ")
    assert "unproved" not in known.out + known.err
    assert found.code == 0
    assert found.lines == known.lines


def test_batches_keep_frame_and_result_together(cli, blob_artifact, folder):
    single, several = (cli("run", blob_artifact.path, "pictures", "--json", "--batch", n) for n in ("1", "2"))
    assert several.lines == single.lines


def test_a_device_that_is_not_there_is_an_environment_problem(cli, blob_artifact, folder):
    said = cli("run", blob_artifact.path, "pictures", "--backend", "torch", "--device", "cuda:99")
    assert said.code == 5
    assert "cuda:99" in said.err


def test_a_classifier_prints_its_best_class(cli, toy_artifact, folder):
    said = cli("run", toy_artifact.path, folder / "0.png", "--json")
    (row,) = (json.loads(line) for line in said.lines)
    assert row["classes"][0]["class_name"].startswith("class ")
    text = cli("run", toy_artifact.path, folder / "0.png")
    assert row["classes"][0]["class_name"] in text.out


def test_scores_below_the_threshold_are_left_out(cli, blob_artifact, folder):
    found = json.loads(cli("run", blob_artifact.path, "pictures/1.png", "--json").out)["detections"]
    every = [row["score"] for row in found]
    cut = sorted(every)[len(every) // 2]
    said = cli("run", blob_artifact.path, "pictures/1.png", "--json", "--score", cut)
    assert [row["score"] for row in json.loads(said.out)["detections"]] == [score for score in every if score >= cut]
    assert json.loads(cli("run", blob_artifact.path, "pictures/1.png", "--json", "--score", 1).out)["detections"] == []


def test_drawings_are_written_one_an_image_and_none_over_another(cli, blob_artifact, folder):
    other = folder.with_name("more")
    shutil.copytree(folder, other)
    cv2.imwrite(str(other / "0.bmp"), draw_blobs(0)[0])
    said = cli("run", blob_artifact.path, folder, other, "--draw", "out/deep")
    assert said.code == 0
    written = sorted(path.name for path in Path("out/deep").iterdir())
    assert written == ["0-2.png", "0-3.png", "0.png", "1-2.png", "1.png", "2-2.png", "2.png"]
    drawn = cv2.imread("out/deep/0.png")
    assert drawn.shape == (64, 96, 3)
    assert (drawn != draw_blobs(0)[0]).any()
    assert "7 drawings in out/deep" in said.err


WAYS = {
    "the folder": lambda folder: (folder, folder),
    "a relative path": lambda folder: (folder, Path("pictures/../pictures/.")),
    "a link to the folder": lambda folder: (folder, link(Path("link"), folder)),
    "images through a link": lambda folder: (link(Path("link"), folder), folder),
    "one image": lambda folder: (folder / "1.png", Path("pictures")),
    "a link to an image": lambda folder: (link(folder.with_name("1.png"), folder / "1.png"), folder),
    "a link in the drawings": lambda folder: (folder, link(fresh("out") / "1.png", folder / "1.png").parent),
    "a hard link in the drawings": lambda folder: (folder, hard_link(fresh("out") / "1.png", folder / "1.png").parent),
}


def fresh(name: str) -> Path:
    Path(name).mkdir()
    return Path(name)


def link(path: Path, target: Path) -> Path:
    path.symlink_to(target)
    return path


def hard_link(path: Path, target: Path) -> Path:
    path.hardlink_to(target)
    return path


@pytest.mark.parametrize("way", WAYS)
def test_no_drawing_overwrites_an_input_and_nothing_is_run(cli, blob_artifact, folder, way):
    before = {path: path.read_bytes() for path in folder.iterdir()}
    images, drawings = WAYS[way](folder)
    said = cli("run", blob_artifact.path, images, "--draw", drawings)
    assert (said.code, said.out) == (1, "")
    assert "would overwrite" in said.err
    assert "--draw drawings" in said.err
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_no_drawing_overwrites_another_file_beside_the_inputs(cli, blob_artifact, folder):
    """0.png is not among the inputs, but it can be no drawing either: nobody drew here before."""
    (folder / "0.png").rename(folder / "0.bmp")
    (folder / "0.png").write_bytes(b"an original")
    said = cli("run", blob_artifact.path, folder / "0.bmp", "--draw", folder)
    assert (said.code, said.out) == (1, "")
    assert "a file that is no drawing of convkit" in said.err
    assert (folder / "0.png").read_bytes() == b"an original"


def test_drawings_with_names_of_their_own_may_lie_beside_the_inputs(cli, blob_artifact, folder):
    (folder / "0.png").rename(folder / "0.bmp")
    before = {path: path.read_bytes() for path in folder.iterdir()}
    assert cli("run", blob_artifact.path, "pictures/0.bmp", "--draw", "pictures").code == 0
    assert {path: path.read_bytes() for path in before} == before
    assert {path.name for path in folder.iterdir()} == {"0.bmp", "0.png", "1.png", "2.png"}


def test_the_frames_of_a_video_overwrite_no_input_that_has_the_name_of_one(cli, blob_artifact, folder):
    write_video("clip.avi", 3)
    (folder / "1.png").rename(folder / "clip_000001.jpg")
    before = (folder / "clip_000001.jpg").read_bytes()
    said = cli("run", blob_artifact.path, "clip.avi", "pictures/clip_000001.jpg", "--draw", "pictures")
    assert said.code == 1
    assert "would overwrite pictures/clip_000001.jpg, an input" in said.err
    assert (folder / "clip_000001.jpg").read_bytes() == before


def test_drawing_again_replaces_the_drawings_and_follows_no_link(cli, blob_artifact, folder):
    other = folder.with_name("other.png")
    other.write_bytes(b"another file")
    link(fresh("out") / "0.png", other.resolve())
    for _ in range(2):
        assert cli("run", blob_artifact.path, folder, "--draw", "out").code == 0
    assert other.read_bytes() == b"another file"
    assert sorted(path.name for path in Path("out").iterdir()) == ["0.png", "1.png", "2.png"]
    assert cv2.imread("out/0.png").shape == (64, 96, 3)


def test_what_a_killed_run_left_among_the_drawings_goes_away(cli, blob_artifact, folder):
    left = Path("drawings") / f".drawing.{os.getpid()}.abc.partial"
    left.mkdir(parents=True)
    (left / "file").write_bytes(b"half of a drawing")
    Path("drawings/.hidden").write_text("kept")
    said = cli("run", blob_artifact.path, "pictures", "--draw", "drawings")
    assert said.code == 0, said.err
    assert [path.name for path in Path("drawings").iterdir() if path.name.startswith(".")] == [".hidden"]


def test_a_full_disk_is_a_problem_of_the_environment(cli, blob_artifact, folder, monkeypatch):
    def full(self, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    said = cli("run", blob_artifact.path, "pictures", "--draw", "drawings")
    assert said.code == 5
    assert "No room to write drawings" in said.err
    assert not list(Path("drawings").iterdir())


def test_pipes_and_links_without_end_are_no_place_for_results(cli, blob_artifact, folder):
    os.mkfifo("pipe.mp4")
    os.mkfifo("pipe.json")
    Path("loop").symlink_to("loop")
    for words in (
        ("run", blob_artifact.path, "pictures", "--save-video", "pipe.mp4"),
        ("run", blob_artifact.path, "pictures", "--draw", "loop"),
        ("run", blob_artifact.path, "pictures", "--signed-by", "pipe.json"),
        ("report", blob_artifact.path, "--output", "loop/report.html"),
        ("validate", blob_artifact.path, "--save-results", "pipe.json"),
    ):
        said = cli(*words)
        assert said.code in (1, 4), words
        assert said.err.splitlines()[-1].startswith("  hint: "), said.err
    assert Path("pipe.json").is_fifo()


def test_nothing_is_drawn_into_the_artifact(cli, blob_artifact, folder):
    for flag in ("--draw", "--npz"):
        said = cli("run", blob_artifact.path, "pictures", flag, blob_artifact.path / "proof")
        assert (said.code, "whose files are sealed" in said.err) == (1, True)
    said = cli("validate", blob_artifact.path, "--save-results", blob_artifact.path / "proof" / "results.json")
    assert (said.code, "whose files are sealed" in said.err) == (1, True)
    blob_artifact.verify()


def write_video(path: str, count: int) -> None:
    writer = cv2.VideoWriter(path, cv2.VideoWriter.fourcc(*"MJPG"), 5, (96, 64))
    for seed in range(count):
        writer.write(draw_blobs(seed)[0])
    writer.release()


def test_the_frames_of_a_video_are_images_too(cli, blob_artifact):
    write_video("clip.avi", 4)
    said = cli("run", blob_artifact.path, "clip.avi", "--json", "--draw", "out")
    assert [json.loads(line)["image"] for line in said.lines] == [f"clip.avi#{index}" for index in range(4)]
    assert sorted(path.name for path in Path("out").iterdir()) == [f"clip_{index:06d}.jpg" for index in range(4)]


def test_a_video_that_is_cut_off_is_run_as_far_as_it_goes_and_is_an_error(cli, blob_artifact):
    write_video("clip.avi", 8)
    assert "warning" not in cli("run", blob_artifact.path, "clip.avi").err
    whole = Path("clip.avi").read_bytes()
    Path("cut.avi").write_bytes(whole[: len(whole) // 2])
    said = cli("run", blob_artifact.path, "cut.avi")
    assert said.code == 1
    assert 0 < len(said.lines) < 8
    assert f"cut.avi is cut off or damaged: it declares 8 frames, {len(said.lines)} could be read" in said.err
    skipping = cli("run", blob_artifact.path, "cut.avi", "--skip-bad", "-q")
    assert (skipping.code, skipping.lines) == (0, said.lines)
    assert "skipped: cut.avi is cut off" in skipping.err


@pytest.mark.parametrize("batch", [1, 2, 50])
def test_the_batch_size_changes_no_result(cli, blob_artifact, folder, batch):
    assert (
        cli("run", blob_artifact.path, folder, "--json", "--batch", batch).out
        == cli("run", blob_artifact.path, folder, "--json").out
    )


def test_results_before_a_broken_image_are_kept_and_it_is_named(cli, blob_artifact, folder):
    (folder / "1.png").write_bytes(b"")
    said = cli("run", blob_artifact.path, folder, "--json")
    assert said.code == 1
    assert [json.loads(line)["image"] for line in said.lines] == [str(folder / "0.png")]
    assert "1.png is empty" in said.err


@pytest.fixture
def some_bad(folder, monkeypatch) -> Path:
    """A folder of five pictures, of which one is empty, and one of a size that the model does not take."""
    resize = Resize.__call__

    def keep_tall(self, image):
        return resize(Resize({"height": 160, "width": 96}) if len(image) == 160 else self, image)

    monkeypatch.setattr(Resize, "__call__", keep_tall)
    for name in "34":
        cv2.imwrite(str(folder / f"{name}.png"), draw_blobs(int(name))[0])
    (folder / "1.png").write_bytes(b"")
    cv2.imwrite(str(folder / "3.png"), np.zeros((160, 96, 3), np.uint8))
    return folder


@pytest.mark.parametrize("raw", [False, True])
@pytest.mark.parametrize("batch", [1, 2, 4])
def test_bad_inputs_are_skipped_where_that_is_asked_for(cli, blob_artifact, some_bad, batch, raw):
    flags = ["--npz", "maps"] if raw else ["--draw", "out"]
    said = cli("run", blob_artifact.path, "pictures", "--skip-bad", "--batch", batch, "--json", "-q", *flags)
    assert said.code == 0
    rows = [json.loads(line) for line in said.lines]
    assert [row["image"] for row in rows] == [f"pictures/{n}.png" for n in (0, 2, 4)]
    one = [cli("run", blob_artifact.path, f"pictures/{n}.png", "--json", "-q", *flags) for n in (0, 2, 4)]
    assert [row.out for row in one] == [line + "\n" for line in said.lines]
    assert said.err.splitlines()[-1] == "2 of 5 skipped"
    assert "skipped: pictures/1.png is empty" in said.err
    assert "skipped: pictures/3.png: This needs an input height of 160" in said.err
    assert len(list(Path(flags[1]).iterdir())) == 3


@pytest.mark.parametrize("batch", [2, 4])
def test_what_came_before_a_bad_input_is_kept_in_any_batch(cli, blob_artifact, some_bad, batch):
    (some_bad / "1.png").unlink()
    said = cli("run", blob_artifact.path, "pictures", "--batch", batch)
    assert said.code == 1
    assert [line.partition(":")[0] for line in said.lines] == ["pictures/0.png", "pictures/2.png"]
    assert "error: pictures/3.png: This needs" in said.err


def test_where_every_input_is_bad_the_run_failed(cli, blob_artifact, some_bad):
    said = cli("run", blob_artifact.path, "pictures/1.png", "pictures/3.png", "--skip-bad")
    assert (said.code, said.out) == (1, "")
    assert "2 of 2 skipped" in said.err


PLACES = {
    "a photo of the same name": lambda out: cv2.imwrite(str(out / "1.png"), np.zeros((9, 9, 3), np.uint8)),
    "a text": lambda out: (out / "1.png").write_text("mine"),
    "nothing in it": lambda out: (out / "1.png").write_bytes(b""),
}


@pytest.mark.parametrize("place", PLACES)
def test_no_drawing_overwrites_what_is_no_drawing_wherever_it_lies(cli, blob_artifact, folder, place):
    PLACES[place](fresh("out"))
    before = Path("out/1.png").read_bytes()
    said = cli("run", blob_artifact.path, "pictures", "--draw", "out")
    assert (said.code, said.out) == (1, "")
    assert "out/1.png, a file that is no drawing of convkit" in said.err
    assert Path("out/1.png").read_bytes() == before


def test_drawings_whose_names_differ_in_case_only_do_not_meet_on_any_disk(cli, blob_artifact, folder):
    shutil.copy(folder / "1.png", folder / "A.png")
    shutil.copy(folder / "1.png", folder / "a.PNG")
    assert cli("run", blob_artifact.path, "pictures", "--draw", "out").code == 0
    names = [path.name.casefold() for path in Path("out").iterdir()]
    assert len(names) == len(set(names)) == 5


def test_outputs_overwrite_nothing_but_outputs(cli, embedding_artifact):
    raws = [{"vectors": np.ones((6, 16), np.float32)}] * 2
    store("vectors", raws)
    store("mine", raws)
    before = {path: path.read_bytes() for path in Path("mine").iterdir()}
    said = cli("run", embedding_artifact.path, "vectors", "--npz", "mine")
    assert (said.code, said.out) == (1, "")
    assert "a file that is no output of convkit" in said.err
    assert {path: path.read_bytes() for path in Path("mine").iterdir()} == before
    for _ in range(2):
        assert cli("run", embedding_artifact.path, "vectors", "--npz", "out").code == 0


@pytest.mark.parametrize("batch", [1, 2, 3])
def test_an_image_of_an_unfit_size_is_named_and_no_other(cli, blob_artifact, folder, batch, monkeypatch):
    resize = Resize.__call__

    def keep_tall(self, image):
        return resize(Resize({"height": 160, "width": 96}) if len(image) == 160 else self, image)

    monkeypatch.setattr(Resize, "__call__", keep_tall)
    cv2.imwrite(str(folder / "1.png"), np.zeros((160, 96, 3), np.uint8))
    said = cli("run", blob_artifact.path, "pictures", "--batch", batch)
    assert said.code == 1
    assert "error: pictures/1.png: This needs an input height of 160" in said.err
    (folder / "1.png").write_bytes(b"")
    said = cli("run", blob_artifact.path, "pictures", "--batch", batch)
    assert "error: pictures/1.png is empty" in said.err


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["nowhere", "pictures"], 1, "no artifact"),
        (["pictures", "pictures"], 1, "not a complete artifact"),
        (["ARTIFACT", "nowhere.png"], 1, "no image"),
        (["ARTIFACT", "empty"], 1, "holds no images"),
        (["ARTIFACT", "pictures", "--backend", "onnx"], 2, "no backend"),
        (["ARTIFACT", "pictures", "--device", "cuda:0"], 5, "cuda:0"),
        (["ARTIFACT", "pictures", "--draw", "pictures/0.png"], 1, "Cannot write"),
    ],
)
def test_what_cannot_be_run_is_one_error(cli, blob_artifact, folder, words, code, message):
    Path("empty").mkdir()
    said = cli("run", *[blob_artifact.path if word == "ARTIFACT" else word for word in words])
    assert (said.code, said.out) == (code, "")
    assert message in said.err


def test_an_artifact_that_was_changed_is_not_run(cli, blob_artifact, folder):
    copy = Path(shutil.copytree(blob_artifact.path, "copy"))
    (copy / "model.onnx").write_bytes(b"other")
    said = cli("run", copy, folder)
    assert (said.code, said.out) == (4, "")
    assert "not the file that was proved" in said.err


def test_grey_and_transparent_pictures_are_read(cli, blob_artifact):
    image = draw_blobs(3)[0]
    cv2.imwrite("alpha.png", np.dstack([image, np.full(image.shape[:2], 7, np.uint8)]))
    cv2.imwrite("grey.png", image[..., 0])
    rows = [json.loads(line) for line in cli("run", blob_artifact.path, "alpha.png", "grey.png", "--json").lines]
    assert len(rows[0]["detections"]) == len(draw_blobs(3)[1])
    assert rows[1]["detections"] == []


def store(folder: str, raws: list[dict[str, np.ndarray]]) -> Path:
    """Write a folder of ``.npz`` files, named by their number."""
    Path(folder).mkdir()
    for number, arrays in enumerate(raws):
        np.savez(Path(folder) / f"{number}.npz", **arrays)
    return Path(folder)


def test_arrays_of_a_model_with_two_inputs_are_run_from_a_folder(cli, pair_artifact):
    raws = pair_inputs(5, seed=3, lengths=(3, 9))
    store("tokens", raws)
    said = cli("run", pair_artifact.path, "tokens", "tokens/2.npz", "--json", "--batch", "2")
    assert said.code == 0
    rows = [json.loads(line) for line in said.lines]
    assert [row["input"] for row in rows] == [*(f"tokens/{number}.npz" for number in range(5)), "tokens/2.npz"]
    net = PairNet().eval()
    net.load_state_dict(pair_weights())
    for raw, row in zip([*raws, raws[2]], rows, strict=True):
        ids, features = torch.from_numpy(raw["ids"])[None], torch.from_numpy(raw["features"])[None]
        with torch.no_grad():
            expected = net(ids, ids != 0, features)
        np.testing.assert_allclose(row["scores"], expected["scores"][0].amax(1).numpy(), rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(row["mean"], expected["mean"][0].numpy(), rtol=1e-4, atol=1e-6)
    text = cli("run", pair_artifact.path, "tokens/0.npz")
    assert text.out.startswith(f"tokens/0.npz: {len(raws[0]['ids'])} tokens, best score ")


def test_a_model_without_decode_prints_the_shapes_of_its_outputs_and_writes_them(cli, embedding_artifact):
    rng = np.random.default_rng(2)
    raws = [{"vectors": rng.normal(size=(6, 16)).astype(np.float32)} for _ in range(3)]
    store("vectors", raws)
    said = cli("run", embedding_artifact.path, "vectors")
    assert said.code == 0
    assert said.lines == [f"vectors/{number}.npz: embedding float32 [8]" for number in range(3)]
    assert sorted(path.name for path in Path.cwd().iterdir()) == ["vectors"]

    store("again", raws[:1])
    said = cli("run", embedding_artifact.path, "vectors", "again", "--npz", "out/deep", "--batch", "2", "--json")
    assert said.code == 0
    rows = [json.loads(line) for line in said.lines]
    assert rows[1] == {"input": "vectors/1.npz", "outputs": {"embedding": {"shape": [8], "dtype": "float32"}}}
    assert "4 files in out/deep" in said.err
    assert sorted(path.name for path in Path("out/deep").iterdir()) == ["0-2.npz", "0.npz", "1.npz", "2.npz"]
    net = EmbeddingNet().eval()
    net.load_state_dict(embedding_weights())
    for name, raw in zip(("0", "1", "2", "0-2"), (*raws, raws[0]), strict=True):
        with np.load(f"out/deep/{name}.npz") as written, torch.no_grad():
            expected = net(torch.from_numpy(raw["vectors"])[None])[0].numpy()
            np.testing.assert_allclose(written["embedding"], expected, rtol=1e-4, atol=1e-6)


def test_the_outputs_of_a_detector_can_be_written_undecoded(cli, blob_artifact, folder):
    said = cli("run", blob_artifact.path, "pictures", "--npz", "maps")
    assert said.code == 0
    assert said.lines[0] == "pictures/0.png: maps float32 [2, 64, 96]"
    with np.load("maps/0.npz") as written:
        red = written["maps"][0] > 0.5
    _, boxes, classes = draw_blobs(0)
    expected = np.zeros((64, 96), bool)
    for (x1, y1, x2, y2), class_id in zip(boxes.astype(int), classes, strict=True):
        expected[y1:y2, x1:x2] = class_id == 0
    np.testing.assert_array_equal(red, expected)


def test_what_cannot_be_drawn_is_said(cli, pair_artifact, embedding_artifact, blob_artifact, folder):
    store("vectors", [{"vectors": np.ones((6, 16), np.float32)}])
    store("tokens", pair_inputs(1))
    for artifact, source, flags, message in (
        (embedding_artifact, "vectors", (), "Outputs of the network cannot be drawn"),
        (blob_artifact, "pictures", ("--npz", "maps"), "Outputs of the network cannot be drawn"),
        (pair_artifact, "tokens", (), "Results of the kind Marks cannot be drawn"),
    ):
        said = cli("run", artifact.path, source, "--draw", "drawings", *flags)
        assert said.code != 0
        assert message in said.err
        assert "--draw" in said.err.splitlines()[-1]
        assert not list(Path.cwd().glob("drawings/*"))


def test_outputs_overwrite_no_input(cli, embedding_artifact):
    store("vectors", [{"vectors": np.ones((6, 16), np.float32)}])
    before = Path("vectors/0.npz").read_bytes()
    said = cli("run", embedding_artifact.path, "vectors", "--npz", "vectors")
    assert said.code == 1
    assert "would overwrite" in said.err
    assert Path("vectors/0.npz").read_bytes() == before


UNFIT = {
    "a length beyond the proved one": (pair_inputs(1, lengths=(13, 13))[0], "input n of 13; the model is for 2 to 12"),
    "shapes that contradict each other": (
        {"ids": np.ones(4, np.int64), "features": np.ones((4, 4))},
        "features (4, 4)",
    ),
    "another name": ({"tokens": np.ones(4, np.int64)}, "no pair of ids and features"),
}


@pytest.mark.parametrize("kind", UNFIT)
def test_arrays_that_the_model_does_not_take_are_refused_with_their_file(cli, pair_artifact, kind):
    arrays, message = UNFIT[kind]
    store("tokens", [pair_inputs(1, lengths=(5, 5))[0], arrays])
    said = cli("run", pair_artifact.path, "tokens")
    assert said.code == 1
    assert len(said.lines) == 1
    assert message in said.err
    assert "tokens/1.npz" in said.err


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"vectors": np.ones((6, 16))}, "float64"),
        ({"vectors": np.ones((7, 16), np.float32)}, "(7, 16)"),
        ({"vectors": np.ones((1, 6, 16), np.float32)}, "(1, 6, 16)"),
        ({"others": np.ones((6, 16), np.float32)}, "others"),
    ],
)
def test_arrays_are_checked_where_there_is_no_preprocess(cli, embedding_artifact, arrays, message):
    """The user gave these arrays, so it is the user who has to change them: no plugin is at fault."""
    store("vectors", [arrays])
    said = cli("run", embedding_artifact.path, "vectors")
    assert (said.code, said.out) == (1, "")
    assert message in said.err
    assert "vectors/0.npz" in said.err
    assert "adapter" not in said.err
    assert "preprocess" not in said.err


def test_images_are_no_input_of_a_model_of_arrays(cli, pair_artifact, folder):
    for words, message in ((["pictures"], "holds no array files"), (["pictures/0.png"], "not a readable .npz file")):
        said = cli("run", pair_artifact.path, *words)
        assert (said.code, said.out) == (1, "")
        assert message in said.err


def in_space(found: Detections) -> Boxes3D:
    """Return the rectangles as boxes that stand ten metres ahead."""
    count = len(found)
    sizes, places = np.tile(np.float32([1.5, 1.6, 4]), (count, 1)), np.tile(np.float32([0, 1, 10]), (count, 1))
    angles = np.zeros(count, np.float32)
    camera = np.float32([[700, 0, 48, 0], [0, 700, 32, 0], [0, 0, 1, 0]])
    return Boxes3D(
        found.boxes, found.scores, found.class_ids, sizes, places, angles, angles, camera, tuple(found.classes)
    )


def test_boxes_in_space_become_result_files_that_are_never_replaced(cli, blob_artifact, folder, tmp_path, monkeypatch):
    plain = Components.__call__
    monkeypatch.setattr(Components, "__call__", lambda *arguments: [in_space(each) for each in plain(*arguments)])
    said = cli("run", blob_artifact.path, folder, "--kitti", tmp_path / "kitti", "--json")
    assert said.code == 0
    assert sorted(file.name for file in (tmp_path / "kitti").iterdir()) == ["0.txt", "1.txt", "2.txt"]
    for row in map(json.loads, said.lines):
        lines = (tmp_path / "kitti" / Path(row["image"]).with_suffix(".txt").name).read_text().splitlines()
        assert len(lines) == len(row["boxes"]) > 0
        for line, box in zip(lines, row["boxes"], strict=True):
            name, *numbers = line.split()
            assert name == box["class_name"]
            assert len(numbers) == 15
            expected = [-1, -1, 0, *box["box"], 1.5, 1.6, 4, 0, 1, 10, 0, box["score"]]
            np.testing.assert_allclose(list(map(float, numbers)), expected, atol=1e-4)
    before = (tmp_path / "kitti" / "0.txt").read_text()
    again = cli("run", blob_artifact.path, folder, "--kitti", tmp_path / "kitti", "--score", "1")
    assert again.code == 1
    assert "would overwrite" in again.err
    assert (tmp_path / "kitti" / "0.txt").read_text() == before


def test_other_results_are_no_boxes_in_space(cli, blob_artifact, folder, tmp_path):
    said = cli("run", blob_artifact.path, folder, "--kitti", tmp_path / "kitti")
    assert said.code == 2
    assert "Results of the kind Detections have no boxes in space" in said.err
    said = cli("run", blob_artifact.path, folder, "--kitti", tmp_path / "kitti", "--npz", tmp_path / "npz")
    assert said.code == 2
    assert "--kitti or --npz" in said.err
