"""The parity tests of the backbones and of CKD, with the arrays of the golden files on the device."""

from __future__ import annotations

from tests.parity.test_bm3 import test_bm3_equals_mmrec_in_every_array as test_bm3
from tests.parity.test_ckd import test_distillation_step_equals_the_published_code_in_every_array as test_ckd_step
from tests.parity.test_ckd import test_embeddings_equal_the_published_code_in_all_settings as test_ckd_embeddings
from tests.parity.test_dualgnn import test_dualgnn_equals_mmrec_in_every_array as test_dualgnn
from tests.parity.test_egogcn import test_egogcn_equals_the_release_in_every_array as test_egogcn
from tests.parity.test_freedom import file as file  # A fixture.
from tests.parity.test_freedom import test_freedom_equals_mmrec_in_every_array as test_freedom
from tests.parity.test_grcn import test_grcn_equals_mmrec_in_every_array as test_grcn
from tests.parity.test_lattice import test_lattice_equals_mmrec_in_every_array as test_lattice
from tests.parity.test_lightgcn import test_lightgcn_equals_mmrec_in_every_array as test_lightgcn
from tests.parity.test_metrics import test_rankings_and_metrics_equal_both_published_sources as test_metrics
from tests.parity.test_mgcn import test_mgcn_equals_mmrec_in_every_array as test_mgcn
from tests.parity.test_micro import test_micro_equals_its_authors_code_in_every_array as test_micro
from tests.parity.test_mmgcn import test_mmgcn_equals_mmrec_in_every_array as test_mmgcn
from tests.parity.test_vbpr import test_vbpr_equals_mmrec_in_every_array as test_vbpr

__all__ = [
    "test_bm3",
    "test_ckd_embeddings",
    "test_ckd_step",
    "test_dualgnn",
    "test_egogcn",
    "test_freedom",
    "test_grcn",
    "test_lattice",
    "test_lightgcn",
    "test_metrics",
    "test_mgcn",
    "test_micro",
    "test_mmgcn",
    "test_vbpr",
]
