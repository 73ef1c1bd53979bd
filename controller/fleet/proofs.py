"""What devices say of variants that were published as unproven: the first of a class tells the others' owner.

Rules:
    * A manifest never changes; what was proven since is kept beside it, by the manifest's digest.
    * One row a device and variant, the latest word; the time is that of the first.
    * At most `MAX_PROOFS` rows a device, the oldest forgotten.
"""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from controller.database.schema import ProofRow
from runtime.protocol.messages import ModelState, VariantProof

__all__ = ["keep", "of_device", "of_model"]

MAX_PROOFS = 64  # kept per device
MAX_REASON = 500  # characters


def keep(session: Session, device: str, model: ModelState, now: datetime) -> None:
    """Keep what *device* says of the unproven variants of the *model* that serves on it."""
    for proof in model.proofs[:MAX_PROOFS]:
        key = (model.manifest_sha256, proof.variant[:64], device)
        row = session.get(ProofRow, key)
        if row is None:
            row = ProofRow(manifest_sha256=key[0], variant=key[1], device_id=key[2], first_at=now)
            _set(row, proof)
            session.add(row)
            _forget_oldest(session, device)
        else:
            _set(row, proof)


def _set(row: ProofRow, proof: VariantProof) -> None:
    row.provider, row.device_class = proof.provider[:64], proof.device_class[:32]
    row.passed, row.reason = proof.passed, proof.reason[:MAX_REASON]
    row.latency_ms, row.fp32_latency_ms = proof.latency_ms, proof.fp32_latency_ms


def _forget_oldest(session: Session, device: str) -> None:
    session.flush()
    rows = of_device(session, device)
    for row in rows[: max(0, len(rows) - MAX_PROOFS)]:
        session.delete(row)


def of_device(session: Session, device: str) -> list[ProofRow]:
    """Return what *device* said of any model's variants, the oldest first."""
    mine = select(ProofRow).where(ProofRow.device_id == device)
    return list(session.scalars(mine.order_by(ProofRow.first_at, ProofRow.manifest_sha256, ProofRow.variant)))


def of_model(session: Session, digest: str) -> list[ProofRow]:
    """Return what devices said of the variants of the manifest *digest*, by variant, the oldest first."""
    of_digest = select(ProofRow).where(ProofRow.manifest_sha256 == digest)
    return list(session.scalars(of_digest.order_by(ProofRow.variant, ProofRow.first_at, ProofRow.device_id)))
