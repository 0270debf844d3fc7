"""Names, settings and annotations as Windows editors save them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import cv2
import pytest
from support.blobs import draw_blobs, write_coco

from convkit import Artifact, convert
from convkit._text import printable, read_text
from convkit.conversion import read_config
from convkit.evaluation import evaluate_artifact

ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "utf-32"]
BIG_ENDIAN = {"utf-16": b"\xfe\xff", "utf-32": b"\x00\x00\xfe\xff"}


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_text_with_a_mark_is_read_without_it(tmp_path, encoding):
    path = tmp_path / "a.txt"
    path.write_bytes("Äpfel\r\n车\r\n".encode(encoding))
    assert read_text(path) == "Äpfel\n车\n"
    if encoding in BIG_ENDIAN:
        path.write_bytes(BIG_ENDIAN[encoding] + "Äpfel\n车\n".encode(f"{encoding}-be"))
        assert read_text(path) == "Äpfel\n车\n"


@pytest.mark.parametrize("data", [b"caf\xe9", b"\xff\xfea", b"\xef\xbb\xbf\xff"])
def test_other_bytes_are_refused(tmp_path, data):
    (tmp_path / "a.txt").write_bytes(data)
    with pytest.raises(UnicodeDecodeError):
        read_text(tmp_path / "a.txt")


@pytest.mark.parametrize("encoding", ENCODINGS[1:3])
def test_settings_may_begin_with_a_mark(tmp_path, encoding):
    path = tmp_path / "convkit.toml"
    path.write_bytes("[convert]\r\nsamples = 1\r\n".encode(encoding))
    assert read_config(path) == ({"samples": 1}, "convkit.toml")


@pytest.mark.parametrize("encoding", ENCODINGS[1:3])
def test_the_first_class_name_has_no_mark(toy, toy_weights_file, tmp_path, encoding):
    names = tmp_path / "names.txt"
    names.write_bytes("car\r\nbus\r\nvan\r\ntram\r\n".encode(encoding))
    made = convert("toy", weights=toy_weights_file, output=tmp_path / "out", names=names, samples=1).artifact
    assert made.manifest["model"]["classes"] == ["car", "bus", "van", "tram"]


def test_annotations_may_begin_with_a_mark(blobs, blob_artifact, tmp_path):
    path: Path = write_coco(tmp_path, 2, categories={"green": 3, "red": 7})
    document = json.loads(path.read_text())
    path.write_bytes(json.dumps(document).encode("utf-8-sig"))
    figures = evaluate_artifact(blob_artifact, path, tmp_path / "images").figures
    assert figures["onnxruntime"]["AP"] == pytest.approx(1.0)


def test_a_name_that_is_not_utf8_is_shown_with_escapes():
    assert printable(os.fsdecode(b"caf\xe9.jpg")) == "caf\\xe9.jpg"
    assert printable("Größe 车.jpg") == "Größe 车.jpg"


def test_a_conversion_records_images_and_weights_whose_names_are_not_utf8(toy, toy_weights_file, tmp_path):
    folder, weights = tmp_path / os.fsdecode(b"in\xe9"), tmp_path / os.fsdecode(b"w\xe9.pth")
    folder.mkdir()
    cv2.imwrite(str(tmp_path / "a.png"), draw_blobs(0)[0])
    (tmp_path / "a.png").rename(folder / os.fsdecode(b"caf\xe9.png"))
    weights.write_bytes(toy_weights_file.read_bytes())
    made = convert("toy", weights=weights, output=tmp_path / "out", inputs=folder, samples=1).artifact
    assert made.manifest["weights"]["file"] == "w\\xe9.pth"
    assert "in\\xe9" in made.verdict["inputs"]
    settings = {item["name"]: item["value"] for item in made.manifest["settings"]}
    assert settings["inputs"] == "in\\xe9"
    quoted = json.dumps("caf\\xe9.png").strip('"')
    assert any(quoted in file.read_text() for file in (made.path / "proof").glob("*.json"))
    Artifact.open(made.path).verify()


def test_no_file_is_read_without_end(tmp_path):
    large, pipe = tmp_path / "large", tmp_path / "pipe"
    large.touch()
    os.truncate(large, (64 << 20) + 1)
    for path in (large, Path("/dev/zero")):
        with pytest.raises(ValueError, match=r"more than 67,108,864 bytes|no regular file"):
            read_text(path)
    os.mkfifo(pipe)
    assert read_text(pipe) == "", "nobody writes into it"
    reading, writing = os.pipe()
    os.write(writing, b"cat\ndog\n")
    os.close(writing)
    assert read_text(Path(f"/dev/fd/{reading}")) == "cat\ndog\n", "as from <(command) in a shell"
    os.close(reading)
