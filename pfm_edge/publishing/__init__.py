"""Publishing: from a run to a model package and its bundle, and whose signature is on it.

keys = read_signing_keys([Path("issuer.pem")])
exported = export_run(Run.open(path), Path("model"), signers=keys)
describe(read_bundle(Path("model"))).signers
"""

from pfm_edge._bundles import (
    BundleChanges,
    BundleFacts,
    bundle_without,
    compare,
    describe,
    read_bundle,
    sign_bundle,
    verify_bundle,
    write_bundle,
)
from pfm_edge._key_files import (
    public_path,
    read_passphrase,
    read_public_key,
    read_signing_keys,
    write_key_pair,
)
from pfm_edge.publishing._export import ExportedRun, export_run
from pfm_edge.publishing._graphs import TRAINING_IMAGES, GraphRequest
from pfm_edge.publishing._source import deployable_source
from pfm_edge.publishing._targets import export_artefact
from pfm_edge.publishing._verify import verify_against_run

__all__ = [
    "TRAINING_IMAGES",
    "BundleChanges",
    "BundleFacts",
    "ExportedRun",
    "GraphRequest",
    "bundle_without",
    "compare",
    "deployable_source",
    "describe",
    "export_artefact",
    "export_run",
    "public_path",
    "read_bundle",
    "read_passphrase",
    "read_public_key",
    "read_signing_keys",
    "sign_bundle",
    "verify_against_run",
    "verify_bundle",
    "write_bundle",
    "write_key_pair",
]
