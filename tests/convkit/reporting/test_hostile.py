"""An artifact that somebody else wrote is refused or reported; nothing in between."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from random import Random

import pytest
from support.mutants import mutants, resealed, sealed

from convkit import Artifact
from convkit.artifact import GRAPHS
from convkit.errors import ArtifactError, IntegrityError
from convkit.reporting import ReportParts, render_report

COUNT = 60
NODE = {"name": "a", "operator": "Conv", "module": "m", "weights": ["3x3"], "kind": "removed"}
PLACE = {
    "rewrite": "r",
    "before": {"nodes": [NODE, {**NODE, "name": "b"}], "edges": [[0, 1, "t"]]},
    "after": {"nodes": [{**NODE, "kind": "changed"}], "edges": []},
    "places": 2,
    "left_out": 1,
}


@pytest.fixture
def folder(toy_artifact, tmp_path) -> Path:
    copied = tmp_path / "artifact"
    shutil.copytree(toy_artifact.path, copied)
    (copied / GRAPHS).write_text(json.dumps([PLACE]))
    resealed(copied)
    return copied


def report(folder: Path) -> str:
    artifact = Artifact.open(folder)
    artifact.verify()
    return render_report(artifact.manifest, artifact.verdict, ReportParts(graphs=artifact.graphs))


def test_no_change_of_the_drawn_places_ends_in_anything_but_a_refusal_or_a_report(folder):
    assert "Conv 3x3" in report(folder)
    refused = 0
    for _, changed in mutants([PLACE], Random(3), COUNT):
        (folder / GRAPHS).write_text(json.dumps(changed))
        resealed(folder)
        try:
            assert report(folder).endswith("</html>")
        except IntegrityError:
            refused += 1
    assert COUNT / 10 < refused < COUNT


@pytest.mark.parametrize("edge", [[0, 2, "t"], [-1, 0, "t"], [0, 1]])
def test_an_edge_to_nowhere_is_refused(folder, edge):
    (folder / GRAPHS).write_text(json.dumps([{**PLACE, "before": {**PLACE["before"], "edges": [edge]}}]))
    resealed(folder)
    with pytest.raises(IntegrityError, match="cannot be read"):
        report(folder)


def test_no_change_of_a_manifest_ends_in_anything_but_a_refusal_or_a_report(folder):
    file = folder / "manifest.json"
    document = json.loads(file.read_text())
    reported = 0
    for _, changed in mutants(document, Random(4), 2 * COUNT):
        file.write_text(json.dumps(sealed(changed)))
        try:
            assert report(folder).endswith("</html>")
            reported += 1
        except (ArtifactError, IntegrityError):
            continue
    assert reported > COUNT / 10


def test_an_older_artifact_has_no_drawn_places(folder):
    (folder / GRAPHS).unlink()
    document = json.loads((folder / "manifest.json").read_text())
    del document["files"][GRAPHS]
    (folder / "manifest.json").write_text(json.dumps(sealed(document)))
    assert "Before and after each rewrite" not in report(folder)
