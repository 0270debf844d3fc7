"""The artifact: a directory with a proved graph, its manifest, its proof and its engines."""

from convkit.artifact._directory import (
    EXPORTED,
    GRAPHS,
    KERNELS,
    MODEL,
    REPORT,
    SAMPLES,
    SCHEMA_VERSION,
    VERDICT,
    Artifact,
    anchored,
)
from convkit.artifact._engines import StagedEngine, StoredEngine, engine_staging, stored_engines
from convkit.artifact._manifest import environment, spec_from_manifest, spec_to_json
from convkit.artifact._publish import check_destination, publish, staging
from convkit.artifact._records import ProofRecord, record_file, write_record
from convkit.artifact._signature import SIGNATURE, sign_artifact, verify_signature
from convkit.artifact._weights import weights_difference, weights_record

__all__ = [
    "EXPORTED",
    "GRAPHS",
    "KERNELS",
    "MODEL",
    "REPORT",
    "SAMPLES",
    "SCHEMA_VERSION",
    "SIGNATURE",
    "VERDICT",
    "Artifact",
    "ProofRecord",
    "StagedEngine",
    "StoredEngine",
    "anchored",
    "check_destination",
    "engine_staging",
    "environment",
    "publish",
    "record_file",
    "sign_artifact",
    "spec_from_manifest",
    "spec_to_json",
    "staging",
    "stored_engines",
    "verify_signature",
    "weights_difference",
    "weights_record",
    "write_record",
]
