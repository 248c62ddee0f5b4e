"""The methods that FineSteer is measured against, as estimators that fold into the same gate and experts: one file a method.

So they save as packs, run through the same runtime, and differ from FineSteer in nothing but their mathematics. Equations stand beside
their estimators, with their sources.
"""

from fs_local.method.rivals.adasteer import AdaptiveSteering
from fs_local.method.rivals.alphasteer import NullSpaceMap, NullSpaceMaps
from fs_local.method.rivals.cast import CosineCondition
from fs_local.method.rivals.constant import MeanDifference, PrincipalDirection, RandomDirection
from fs_local.method.rivals.dsas import LogisticStrength
from fs_local.method.rivals.ridge import RidgeMap

__all__ = [
    "AdaptiveSteering",
    "CosineCondition",
    "LogisticStrength",
    "MeanDifference",
    "NullSpaceMap",
    "NullSpaceMaps",
    "PrincipalDirection",
    "RandomDirection",
    "RidgeMap",
]
