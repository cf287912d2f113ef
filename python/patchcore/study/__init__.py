"""The study folder: manifest, cases, decisions, fingerprint, folds and locks. It does not import torch."""

from patchcore.study.cases import CaseRecord, FileStamp, patients_on_both_sides
from patchcore.study.fingerprint import Fingerprint
from patchcore.study.folds import make_folds
from patchcore.study.study import Study

__all__ = ["CaseRecord", "FileStamp", "Fingerprint", "Study", "make_folds", "patients_on_both_sides"]
