"""A steering pack: saved by a fit, loaded by a run."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from fs_local.arrays import F32
from fs_local.choices import EvaluatorName
from fs_local.errors import PackError
from fs_local.files import replace_file
from fs_local.method.folded import Experts, Gate
from fs_local.method.readings import Reading
from fs_local.pack.archive import read_members, read_npz, sealed_archive, write_npz
from fs_local.pack.evaluator import Evaluator, NumpyEvaluator, OnnxEvaluator
from fs_local.pack.graph import ARRAYS_MEMBER, GRAPH_MEMBER, build_graph, checked_graph, graph_arrays
from fs_local.pack.manifest import FORMAT_VERSION, MAX_STRENGTH, READ_VERSIONS, Manifest, ModelIdentity

SUFFIX = ".fspack"
_MANIFEST_MEMBER = "manifest.json"
_MAX_MANIFEST_BYTES = 1 << 20


@dataclass(frozen=True)
class Pack:
    """A gate and experts with all that is known of them. `graph` is the ONNX graph as it stands in the file."""

    manifest: Manifest
    gate: Gate
    experts: Experts
    graph: bytes

    @classmethod
    def of(cls, manifest: Manifest, gate: Gate, experts: Experts) -> Pack:
        """A pack from the parts of a fit; fills in the manifest's digests."""
        npz, spans = write_npz(graph_arrays(gate, experts))
        graph = build_graph(gate, experts, spans)
        digests = {ARRAYS_MEMBER: hashlib.sha256(npz).hexdigest(), GRAPH_MEMBER: hashlib.sha256(graph).hexdigest()}
        return cls(manifest.model_copy(update={"digests": digests}), gate, experts, graph)

    def save(self, path: Path) -> None:
        """Writes the pack.

        Raises:
            PackError: it can't be written; an old file is then as it was.
        """
        replace_file(path, self.to_bytes())

    def to_bytes(self) -> bytes:
        """The pack's file, the same bytes for the same content."""
        npz, _ = write_npz(graph_arrays(self.gate, self.experts))
        manifest = json.dumps(self.manifest.model_dump(), indent=1, ensure_ascii=False, allow_nan=False).encode()
        return sealed_archive({_MANIFEST_MEMBER: manifest, ARRAYS_MEMBER: npz, GRAPH_MEMBER: self.graph})

    @classmethod
    def load(cls, path: Path) -> Pack:
        """Reads a pack, trusting nothing in it.

        Raises:
            PackError: no such file, damaged in any byte, from a newer format, or of parts that do not fit each other.
        """
        members = read_members(path, (_MANIFEST_MEMBER, ARRAYS_MEMBER, GRAPH_MEMBER))
        try:
            manifest = _parse_manifest(members[_MANIFEST_MEMBER])
            for name in (ARRAYS_MEMBER, GRAPH_MEMBER):
                if manifest.digests.get(name) != hashlib.sha256(members[name]).hexdigest():
                    raise PackError(f"{name} does not match its digest in the manifest")
            gate, experts = _assemble(manifest, read_npz(members[ARRAYS_MEMBER]))
        except PackError as error:
            raise PackError(f"{path} can't be used: {error}") from error
        return cls(manifest, gate, experts, members[GRAPH_MEMBER])

    def check_model(self, model: ModelIdentity) -> str | None:
        """Compares with a model; returns a note if the pack was fitted with another quantization of it.

        Raises:
            PackError: the pack is for another model.
        """
        name, fitted = self.manifest.name, self.manifest.model
        if fitted.fingerprint != model.fingerprint or (fitted.width, fitted.n_layer) != (model.width, model.n_layer):
            raise PackError(
                f"pack {name} was fitted for {fitted.name} (fingerprint {fitted.fingerprint}), and the model is {model.name} "
                f"(fingerprint {model.fingerprint}); fit a pack for this model"
            )
        if fitted.quantization != model.quantization:
            return (
                f"pack {name} was fitted with {fitted.quantization} of this model, which runs as {model.quantization}"
            )
        return None

    def with_strength(self, strength: float) -> Pack:
        """The same pack, steering by another λ.

        Raises:
            PackError: a strength that is no number, or beyond all reason.
        """
        if not abs(strength) <= MAX_STRENGTH:
            raise PackError(f"the strength must be a number from -{MAX_STRENGTH} to {MAX_STRENGTH}")
        return replace(
            self,
            manifest=self.manifest.model_copy(
                update={"steer": self.manifest.steer.model_copy(update={"strength": strength})}
            ),
        )

    def evaluator(self, name: EvaluatorName = "numpy", providers: list[str] | None = None) -> Evaluator:
        """What evaluates this pack's decisions.

        Raises:
            PackError: the pack's graph has something it should not, or ONNX Runtime can't run it.
        """
        if name == "numpy":
            return NumpyEvaluator(self.gate, self.experts)
        try:
            evaluator = OnnxEvaluator(checked_graph(self.graph, graph_arrays(self.gate, self.experts)), providers)
            self._compare(evaluator)
            return evaluator
        except PackError as error:
            raise PackError(f"pack {self.manifest.name} can't be used: {error}") from error

    def _compare(self, evaluator: Evaluator) -> None:
        """A graph of allowed operators could still compute something else: it must agree with numpy on probing states."""
        rng, mean = np.random.default_rng(0), self.gate.mean
        probes = list(rng.standard_normal((4, len(mean)), dtype=np.float32))
        probes += [mean + direction for direction in self.gate.basis[:1]]
        probes += [mean + 10 * self.gate.coef] if len(self.gate.coef) else []
        by_numpy = NumpyEvaluator(self.gate, self.experts)
        for probe in probes:
            state = rng.standard_normal(len(self.experts.center), dtype=np.float32)
            a, b = by_numpy(probe, state), evaluator(probe, state)
            for ours, theirs in (
                (a.opening, b.opening),
                (a.energy_ratio, b.energy_ratio),
                (a.weights, b.weights),
                (a.vector, b.vector),
            ):
                if np.shape(ours) != np.shape(theirs) or not np.allclose(ours, theirs, rtol=1e-3, atol=1e-3):
                    raise PackError("its graph and its arrays disagree")


def _parse_manifest(data: bytes) -> Manifest:
    if len(data) > _MAX_MANIFEST_BYTES:
        raise PackError("its manifest is too long")
    try:
        raw = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise PackError("its manifest is not JSON") from error
    version = raw.get("version") if isinstance(raw, dict) else None
    # what older versions lack, the manifest's defaults fill in
    if isinstance(version, int) and version not in READ_VERSIONS:
        todo = "upgrade fs-local" if version > FORMAT_VERSION else "fit it again"
        versions = f"{READ_VERSIONS[0]} to {FORMAT_VERSION}"
        raise PackError(f"it has format version {version}, and this fs-local reads versions {versions}; {todo}")
    try:
        return Manifest.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        raise PackError(
            f"its manifest is wrong at {'.'.join(map(str, first['loc'])) or 'its top'}: {first['msg']}"
        ) from error


def _assemble(manifest: Manifest, arrays: dict[str, F32]) -> tuple[Gate, Experts]:
    """Gate and experts from checked arrays, every shape compared with the manifest and with the others."""
    d, kind = manifest.model.width, manifest.gate.kind

    def take(name: str, *shape: int | None) -> F32:
        array = arrays.pop(name, None)
        if array is None:
            raise PackError(f"it has no array {name!r}")
        if len(array.shape) != len(shape) or any(
            want is not None and have != want for have, want in zip(array.shape, shape, strict=True)
        ):
            raise PackError(f"its array {name!r} has shape {array.shape}, which does not fit a model of width {d}")
        return array

    reads = manifest.steer.read_layers
    for layers in (manifest.gate.layers, manifest.steer.layers, reads):
        if layers[-1] >= manifest.model.n_layer or any(a >= b for a, b in pairwise(layers)):
            raise PackError("its layers are out of the model's range, or do not ascend")
    at_gate = d * _places("gate", manifest.gate.layers, manifest.gate.readings, manifest.model.n_layer)
    at_experts = d * _places("steering", reads, manifest.steer.readings, manifest.model.n_layer)
    added = d * len(manifest.steer.layers)
    empty = np.empty(0, dtype=np.float32)
    knots = take("gate_knots", None) if kind == "quantile" else empty
    if kind == "quantile" and (len(knots) < 2 or (np.diff(knots) < 0).any()):
        raise PackError("its gate_knots do not ascend")
    if not kind.startswith("cosine") and manifest.gate.edge <= 0:
        raise PackError("its gate's edge must be above 0")
    gate = Gate(
        kind=kind,
        mean=take("gate_mean", at_gate),
        basis=take("gate_basis", None, at_gate),
        knots=knots,
        coef=take("gate_coef", at_gate) if kind in ("logistic", "cosine_above", "cosine_below") else empty,
        intercept=manifest.gate.intercept,
        edge=manifest.gate.edge,
        decay=manifest.gate.decay,
    )
    prototypes = take("experts_prototypes", None, added)
    k = len(prototypes)
    residual = take("experts_residual", None, added)
    hidden = take("experts_hidden", None, at_experts)
    experts = Experts(
        prototypes=prototypes,
        center=take("experts_center", at_experts),
        routing=take("experts_routing", k, at_experts),
        routing_bias=take("experts_routing_bias", k),
        hidden=hidden,
        hidden_bias=take("experts_hidden_bias", len(hidden)),
        output=take("experts_output", len(residual), len(hidden)),
        output_bias=take("experts_output_bias", len(residual)),
        residual=residual,
    )
    if arrays:
        raise PackError(f"it has an unknown array {min(arrays)!r}")
    if k == 0 or (len(gate.basis) == 0 and kind in ("quantile", "soft")) or k != len(manifest.experts):
        raise PackError("it has no experts, no gate directions, or not one description an expert")
    return gate, experts


def _places(whose: str, layers: list[int], readings: list[Reading], n_layer: int) -> int:
    """How many states are read.

    Raises:
        PackError: a reading twice, or one that there is nothing of.
    """
    if len(set(readings)) < len(readings):
        raise PackError(f"its {whose} has a reading twice")
    if layers[-1] == n_layer - 1 and readings != ["last"]:
        raise PackError(f"its {whose} reads tokens before the last after the last block, where there are none")
    return len(layers) * len(readings)
