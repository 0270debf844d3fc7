"""The artifact: whole, sealed and verified, or refused; complete under its name, or absent."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support import crash
from support.crash import make_artifact
from support.disks import small_disk
from support.faults import build_library, preloaded
from support.manifests import manifest_of

from convkit.artifact import (
    MODEL,
    SAMPLES,
    SCHEMA_VERSION,
    VERDICT,
    Artifact,
    check_destination,
    publish,
    staging,
)
from convkit.artifact._directory import MANIFEST, seal_of
from convkit.errors import ArtifactError, EnvironmentProblem, IntegrityError, Interrupted, OutputError
from convkit.files import sha256

ROOT = Path(__file__).parents[3]


def leftovers(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name.endswith(".partial"))


@pytest.fixture
def artifact(tmp_path: Path) -> Artifact:
    return make_artifact(tmp_path / "out", "graph")


def edit(path: Path, **changes: object) -> None:
    document = json.loads((path / MANIFEST).read_text())
    document.update(changes)
    (path / MANIFEST).write_text(json.dumps(document))


def test_a_published_artifact_opens_verifies_and_is_what_was_written(artifact):
    opened = Artifact.open(artifact.path)
    assert opened == artifact
    opened.verify()
    assert opened.manifest["model"]["variant"] == "graph"
    assert opened.model.read_text() == "graph"
    assert opened.verdict["passed"] is True
    assert os.fspath(opened) == str(artifact.path)
    assert set(opened.manifest["files"]) == {MODEL, SAMPLES, VERDICT}
    assert leftovers(artifact.path.parent) == []


def test_an_artifact_can_be_moved_and_opened_by_relative_path(artifact, tmp_path, monkeypatch):
    moved = tmp_path / "elsewhere"
    shutil.copytree(artifact.path, moved)
    monkeypatch.chdir(moved)
    Artifact.open(".").verify()


def test_the_hash_is_sha256_of_the_whole_file(tmp_path):
    import hashlib

    content = os.urandom(3 * (1 << 20) + 17)
    (tmp_path / "big").write_bytes(content)
    assert sha256(tmp_path / "big") == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize(
    "changes",
    [
        {"convkit": "other"},
        {"verdict": {"passed": True}},
        {"files": {}},
        {"schema_version": 1},
        {"seal": "0" * 64},
        {"seal": None},
    ],
    ids=str,
)
def test_an_edited_manifest_is_refused(artifact, changes):
    edit(artifact.path, **changes)
    with pytest.raises(IntegrityError, match="edited after the proof") as caught:
        Artifact.open(artifact.path)
    assert caught.value.exit_code == 4


def test_writing_the_manifest_in_another_layout_is_no_edit(artifact):
    document = json.loads((artifact.path / MANIFEST).read_text())
    (artifact.path / MANIFEST).write_text(json.dumps(dict(reversed(document.items())), indent=7))
    Artifact.open(artifact.path).verify()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff\xfe\x00", b'{"seal": 1}'])
def test_a_manifest_that_is_none_is_refused(artifact, content):
    (artifact.path / MANIFEST).write_bytes(content)
    with pytest.raises(IntegrityError):
        Artifact.open(artifact.path)


SETTINGS = [
    {"name": "form", "value": "detections", "origin": "flag"},
    {"name": "shape", "value": ["batch=1:4:8", "height=64"], "origin": "convkit.toml"},
    {"name": "opset", "value": 20, "origin": "adapter"},
    {"name": "keep_exported", "value": True, "origin": "flag"},
    {"name": "device", "value": "cpu", "origin": "built-in"},
    {"name": "set.mean", "value": [0.5, 0.25], "origin": "flag"},
    {"name": "set.k", "value": 100, "origin": "adapter"},
]


@pytest.mark.parametrize(
    ("version", "manifest", "command"),
    [
        (
            1,
            {"adapter": {"name": "centernet"}, "weights": {"file": "my net.pth"}, "settings": SETTINGS},
            "convkit convert centernet --weights 'my net.pth' --form detections --shape batch=1:4:8 --shape height=64"
            " --keep-exported --set mean=0.5,0.25",
        ),
        (1, {"adapter": {"name": "toy"}, "weights": {"file": "t.pth"}}, "convkit convert toy --weights t.pth"),
        (99, {"content": "of the future"}, "convkit convert ADAPTER --weights FILE"),
    ],
)
def test_a_manifest_of_another_schema_is_refused_with_the_command_that_makes_it_anew(
    tmp_path, version, manifest, command
):
    document = {"schema_version": version, "files": {}, **manifest}
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / MANIFEST).write_text(json.dumps({**document, "seal": seal_of(document)}))
    with pytest.raises(ArtifactError, match=f"schema {version}; this convkit reads {SCHEMA_VERSION}") as caught:
        Artifact.open(tmp_path / "other")
    assert caught.value.hint.endswith(f"convert again: {command}")


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("name", [MODEL, SAMPLES, VERDICT])
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (flip, "not the file that was proved"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "not the file that was proved"),
        (lambda path: path.write_bytes(b""), "not the file that was proved"),
        (Path.unlink, "is missing"),
        (lambda path: (path.unlink(), path.mkdir()), "is missing"),
    ],
    ids=["one bit", "one byte less", "empty", "gone", "a folder"],
)
def test_a_file_that_is_not_the_proved_one_is_found(artifact, name, damage, message):
    damage(artifact.path / name)
    with pytest.raises(IntegrityError, match=message) as caught:
        Artifact.open(artifact.path).verify()
    assert name in caught.value.message


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "There is no artifact"),
        (lambda path: path.write_text("x"), "is a file"),
        (lambda path: path.mkdir(), "not a complete artifact"),
        (lambda path: (path.mkdir(), (path / MANIFEST).mkdir()), "not a complete artifact"),
        (lambda path: path.symlink_to("nowhere"), "There is no artifact"),
    ],
    ids=["absent", "file", "empty folder", "manifest is a folder", "dangling link"],
)
def test_what_is_no_artifact_is_refused(tmp_path, make, message):
    make(tmp_path / "x")
    with pytest.raises(ArtifactError, match=message) as caught:
        Artifact.open(tmp_path / "x")
    assert caught.value.exit_code == 1
    assert caught.value.hint


def test_a_partial_folder_is_refused_even_when_it_looks_complete(artifact):
    partial = artifact.path.rename(artifact.path.with_name(".out.123.abc.partial"))
    with pytest.raises(ArtifactError, match="killed conversion"):
        Artifact.open(partial)


def test_an_output_that_exists_is_refused_unless_it_is_an_artifact_to_overwrite(artifact):
    with pytest.raises(OutputError, match="exists already"):
        check_destination(artifact.path, overwrite=False)
    check_destination(artifact.path, overwrite=True)
    edit(artifact.path, convkit="edited")
    check_destination(artifact.path, overwrite=True)


@pytest.mark.parametrize(
    "make",
    [
        lambda path: path.mkdir(),
        lambda path: path.write_text("precious"),
        lambda path: path.symlink_to("nowhere"),
        lambda path: (path.mkdir(), (path / "manifest.json").write_text('{"name": "a browser extension"}')),
        lambda path: (path.mkdir(), (path / "manifest.json").write_text("[1]")),
    ],
    ids=["empty folder", "file", "dangling link", "another manifest", "a list"],
)
def test_what_is_no_artifact_is_never_overwritten(tmp_path, make):
    path = tmp_path / "mine"
    make(path)
    for overwrite, message in ((True, "not an artifact"), (False, "exists already")):
        with pytest.raises(OutputError, match=message):
            check_destination(path, overwrite=overwrite)
    assert path.exists() or path.is_symlink()


def test_overwriting_replaces_the_artifact_and_keeps_nothing_of_the_old(artifact):
    (artifact.path / "notes.txt").write_text("old")
    make_artifact(artifact.path, "another", overwrite=True)
    opened = Artifact.open(artifact.path)
    opened.verify()
    assert opened.model.read_text() == "another"
    assert not (artifact.path / "notes.txt").exists()
    assert leftovers(artifact.path.parent) == []


@pytest.mark.parametrize("inside", [".", "proof"])
def test_the_working_directory_may_be_in_the_artifact_that_is_overwritten(artifact, monkeypatch, inside):
    monkeypatch.chdir(artifact.path / inside)
    made = make_artifact(Path(os.path.relpath(artifact.path.parent)) / "out", "another", overwrite=True)
    made.verify()
    assert made.path == artifact.path
    assert Artifact.open(artifact.path).model.read_text() == "another"
    assert sorted(path.name for path in artifact.path.parent.iterdir()) == ["out"]


def test_an_artifact_made_by_a_relative_path_keeps_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_artifact(Path("out"), "graph")
    assert make_artifact(Path("out"), "another", overwrite=True).path == Path("out")


def test_an_output_that_appears_meanwhile_is_not_replaced(tmp_path):
    path = tmp_path / "out"
    with pytest.raises(OutputError, match="appeared while"), staging(path) as folder:  # noqa: PT012
        make_artifact(path, "early")
        shutil.copytree(path, folder, dirs_exist_ok=True)
        (folder / MODEL).write_text("late")
        publish(folder, path, manifest_of(), overwrite=False)
    assert Artifact.open(path).model.read_text() == "early"
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt, SystemExit])
def test_whatever_ends_the_conversion_takes_the_temporary_folder_away(tmp_path, error):
    with pytest.raises(error), staging(tmp_path / "out") as folder:  # noqa: PT012
        (folder / MODEL).write_text("half")
        raise error
    assert list(tmp_path.iterdir()) == []


def test_an_interruption_says_what_was_written(artifact, monkeypatch):
    def late(*arguments: object) -> None:
        del arguments
        raise KeyboardInterrupt

    monkeypatch.setattr("convkit.artifact._publish.Artifact", late)  # right after the exchange
    with pytest.raises(Interrupted, match="out was written"):
        make_artifact(artifact.path, "new", overwrite=True)
    monkeypatch.undo()
    assert Artifact.open(artifact.path).model.read_text() == "new"
    assert leftovers(artifact.path.parent) == []


def test_a_link_is_replaced_and_not_what_it_leads_to(artifact, tmp_path):
    link = tmp_path / "link"
    link.symlink_to(artifact.path)
    make_artifact(link, "new", overwrite=True)
    assert not link.is_symlink()
    assert (Artifact.open(link).model.read_text(), Artifact.open(artifact.path).model.read_text()) == ("new", "graph")


def test_an_artifact_may_be_read_by_others(artifact):
    """A temporary folder is private; what is published is as readable as any other folder."""
    assert artifact.path.stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize("name", ["out", "out[1]", "o*t", "ausgänge 輸出"])
def test_leftovers_of_ended_processes_are_removed_whatever_their_number_and_those_of_running_ones_kept(tmp_path, name):
    left = [f".{name}.{os.getpid()}.abc.partial", f".{name}.1.abc.partial"]  # numbers of processes that run
    kept = [f".other.{os.getpid()}.abc.partial", f".{name}.notes.partial", f".{name}.v2.7.abc.partial"]
    for folder in (*left, *kept):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / MODEL).write_text("half")
    with staging(tmp_path / name) as running:
        make_artifact(tmp_path / name)
        assert leftovers(tmp_path) == sorted([*kept, running.parent.name])
        assert running.is_dir()
    assert leftovers(tmp_path) == sorted(kept)


@pytest.mark.parametrize("name", ["file/out", "file/deeper/out", "x" * 300])
def test_a_place_that_cannot_be_written_is_refused_before_any_work(tmp_path, name):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(OutputError, match="Cannot write") as caught:
        check_destination(tmp_path / name, overwrite=False)
    assert "--output" in caught.value.hint
    with pytest.raises(OutputError, match="Cannot write"), staging(tmp_path / name):
        pytest.fail("the block must not run")


def test_missing_parents_are_made(tmp_path):
    make_artifact(tmp_path / "a" / "b" / "out").verify()


@pytest.mark.parametrize("kilobytes", [4, 8, 12, 16, 20])
def test_a_disk_that_fills_up_is_an_error_of_the_environment_and_nothing_stays(tmp_path, kilobytes):
    """The parts of this artifact take 5, 5 and 1 pages of 4 KiB, its folders none."""
    with small_disk(tmp_path / "disk", kilobytes) as disk:
        with pytest.raises(EnvironmentProblem, match="No room to write") as caught:
            make_artifact(disk / "out", "x" * 200)
        assert list(disk.iterdir()) == []
    assert "Free some space" in caught.value.hint
    assert caught.value.exit_code == 5


@pytest.fixture(scope="session")
def faults_library(tmp_path_factory):
    return build_library(tmp_path_factory.mktemp("faults"))


@pytest.mark.parametrize(
    ("mode", "hit"),
    [
        *(("replace", hit) for hit in ("SIGKILL", "SIGINT", "EIO")),
        *((mode, "SIGKILL") for mode in ("new", "link")),
        *(("plain", hit) for hit in ("SIGKILL", "SIGINT")),
    ],
)
def test_whatever_hits_any_change_of_the_disk_leaves_the_old_or_the_new_artifact(tmp_path, faults_library, mode, hit):
    command = [sys.executable, crash.__file__, str(tmp_path), mode, hit]
    environment = preloaded(faults_library, PYTHONPATH=os.pathsep.join(map(str, (ROOT, ROOT / "tests"))))
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=True)
    statuses = list(map(int, run.stdout.split()))
    assert len(statuses) > 25, "there are that many changes"
    assert statuses.pop() == 0, "the last one was not hit"
    if hit == "SIGKILL":
        assert set(statuses) == {9}
    found = set()
    for number, _ in enumerate(statuses, start=1):
        folder, path = tmp_path / str(number), tmp_path / str(number) / "out"
        for partial in leftovers(folder):
            with pytest.raises(ArtifactError):
                Artifact.open(folder / partial)
        if mode == "plain" and hit == "SIGKILL" and not path.exists():
            assert [(folder / name / "replaced").exists() for name in leftovers(folder)].count(True) == 1
            found.add("put back")
        assert mode == "new" or Artifact.open(path), number
        if path.exists():
            Artifact.open(path).verify()
            found.add((path / MODEL).read_text())
        if hit != "SIGKILL":
            assert leftovers(folder) == [], number
        make_artifact(path, "after", overwrite=True)
        Artifact.open(path).verify()
        assert sorted(entry.name for entry in folder.iterdir()) == (["kept", "out"] if mode == "link" else ["out"])
        assert mode != "link" or Artifact.open(folder / "kept").model.read_text() == "kept"
    old = {"new": set(), "link": {"kept"}}.get(mode, {"old"})
    assert found - {"put back"} == old | {"new"}, "hits before and after the change that counts"
    assert ("put back" in found) == (mode == "plain" and hit == "SIGKILL")
