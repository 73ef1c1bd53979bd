"""Carries rollouts on: facts from the database into the core, the core's actions back into it.

Rules:
    * A step and its actions are one transaction; the broker follows the database, so a controller
      that dies in between goes on where it was.
    * Nothing is assigned before its chunks can be asked for.
    * Two live rollouts never target the same device: the second one is refused.
    * A rollout whose step fails is logged and tried again; the others go on.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from controller.database.database import Database
from controller.database.schema import DeviceRow, RolloutRow
from controller.errors import FleetError
from controller.fleet import audit
from controller.fleet.devices import select_devices
from controller.fleet.query import Query
from controller.rollouts import orders
from controller.rollouts.core import Facts, advance
from controller.rollouts.model import Action, Assign, Release, Rollout, State, Step
from controller.rollouts.spec import PolicySpec
from controller.rollouts.storage import IS_LIVE, facts, find, load, save
from runtime.errors import ModelNotFoundError, VedetteError
from runtime.logs import get_logger
from runtime.protocol.messages import Assignment
from runtime.store import ModelStore, parse_reference

__all__ = ["ORDERS", "RolloutEngine"]

log = get_logger("vedette.rollouts")

TICK = 1.0  # seconds; time itself moves rollouts on
BREATH = 0.1  # seconds at least between two looks, however fast facts change

Order = Callable[[Rollout, Facts, datetime], Step]
ORDERS: dict[str, Order] = {
    "pause": lambda rollout, _facts, _now: orders.pause(rollout),
    "resume": lambda rollout, _facts, _now: orders.resume(rollout),
    "abort": lambda rollout, facts, _now: orders.abort(rollout, facts),
    "rollback": orders.roll_back,
}
"""What an operator may ask of a rollout, by the word for it."""


def _now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class RolloutEngine:
    """The rollouts of one fleet.

    Attributes:
        database: Where they are.
        store: Where the models are.
        offer: Makes a model's chunks known to who answers for them, by its manifest's digest.
        desired_changed: Told which devices have a new desired state, after it was committed.
        wake: Set when facts changed.
        clock: Timezone-aware.
    """

    database: Database
    store: ModelStore
    offer: Callable[[str], None]
    desired_changed: Callable[[Iterable[str]], None]
    wake: asyncio.Event
    clock: Callable[[], datetime] = _now

    async def run(self) -> None:
        """Carry on for ever."""
        while True:
            self.wake.clear()
            self.desired_changed(await asyncio.to_thread(self.step_all))
            await asyncio.sleep(BREATH)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.wake.wait(), TICK)

    # --- Synchronous from here on: called in a thread ---------------------------------------------

    def step_all(self) -> set[str]:
        """Carry every live rollout one step on; return the devices whose desired state changed."""
        with self.database.read() as session:
            live = list(session.scalars(select(RolloutRow.id).where(IS_LIVE).order_by(RolloutRow.created_at)))
        changed: set[str] = set()
        for rollout in live:
            try:
                changed |= self._step(rollout)
            except (VedetteError, SQLAlchemyError, OSError) as error:
                log.warning("a rollout cannot go on", rollout=rollout, reason=str(error))
        return changed

    def create(self, reference: str, target: str, spec: PolicySpec, actor: str) -> str:
        """Start a rollout of *reference* (``NAME[@VERSION]``) to *target*, and return its id.

        Raises:
            UsageError: *reference*, *target* or a part of *spec* is not usable.
            ModelNotFoundError: There is no such model.
            FleetError: No device matches, or a live rollout targets one of them.
        """
        policy, query = spec.policy(), Query.parse(target)
        name, version = parse_reference(reference)
        version = self.store.latest(name) if version is None else version
        digest = hashlib.sha256(self.store.manifest_bytes(name, version)).hexdigest()
        release = Release(model=name, version=version, digest=digest)
        rollout = Rollout(id=f"r{secrets.token_hex(4)}", release=release, policy=policy)
        now = self.clock()
        with self.database.write() as session:
            self._refuse_overlap(session, query)
            session.add(
                RolloutRow(
                    id=rollout.id,
                    created_at=now,
                    created_by=actor,
                    model=name,
                    version=version,
                    digest=digest,
                    target=target,
                    spec=spec.model_dump(mode="json"),
                    state=orders.start(rollout).rollout.state.value,
                    reason="",
                    updated_at=now,
                )
            )
            audit.record(session, now, actor, "rollout.create", rollout.id, model=str(release), target=target)
        return rollout.id

    def order(self, rollout: str, word: str, actor: str) -> set[str]:
        """Give *rollout* the order *word*, a key of `ORDERS`; return the devices whose desired state changed.

        Raises:
            NotFoundError: There is no such rollout.
            FleetError: It is not in a state for that.
        """
        return self._step(rollout, order=ORDERS[word], word=word, actor=actor)

    def _refuse_overlap(self, session: Session, query: Query) -> None:
        wanted = {row.id for row in select_devices(session, query)}
        if not wanted:
            raise FleetError(f"no enrolled device matches {query.text!r}; `vedette device list` shows their labels")
        for other in session.scalars(select(RolloutRow).where(IS_LIVE)):
            if shared := wanted & {row.id for row in select_devices(session, Query.parse(other.target))}:
                some = ", ".join(sorted(shared)[:3])
                raise FleetError(
                    f"rollout {other.id} ({other.state}) still has {len(shared)} of these devices ({some}); "
                    f"wait for its end, or `vedette rollout abort {other.id}`"
                )

    def _step(self, rollout_id: str, *, order: Order | None = None, word: str = "", actor: str = "") -> set[str]:
        now = self.clock()
        with self.database.write() as session:
            row = find(session, rollout_id)
            before = rollout = load(session, row)
            known = facts(session, row, before.members)
            changed = set()
            if order is not None:
                step = order(rollout, known, now)
                audit.record(session, now, actor, f"rollout.{word}", rollout_id, state=before.state.value)
                changed |= self._perform(session, row, step.actions)
                known = facts(session, row, step.rollout.members)
                rollout = step.rollout
            step = advance(rollout, known, now)
            changed |= self._perform(session, row, step.actions)
            save(session, row, before, step.rollout, now)
            if step.rollout.state is not before.state:
                self._note_end(session, before.state, step.rollout, now)
        return changed

    def _note_end(self, session: Session, before: State, rollout: Rollout, now: datetime) -> None:
        log.info("rollout", id=rollout.id, was=before.value, now=rollout.state.value, reason=rollout.reason)
        detail = {"was": before.value, "now": rollout.state.value, "reason": rollout.reason}
        audit.record(session, now, "controller", "rollout.state", rollout.id, **detail)

    def _perform(self, session: Session, row: RolloutRow, actions: Iterable[Action]) -> set[str]:
        """Write the desired state that *actions* ask for."""
        config = PolicySpec.model_validate(row.spec).config
        changed = set()
        for action in actions:
            device = session.get_one(DeviceRow, action.device)
            if isinstance(action, Assign):
                device.sequence = action.sequence
                device.desired = self._desired(action, row, config)
            else:
                device.desired = None
            changed.add(action.device)
        session.flush()
        return changed

    def _desired(self, action: Assign, row: RolloutRow, config: dict[str, str]) -> dict[str, Any] | None:
        """Return the desired state for *action*; none if it leads back to a model that is gone."""
        try:
            return self._assignment(action, row.id, config).model_dump(mode="json")
        except ModelNotFoundError as error:
            if action.release.digest == row.digest:
                raise
            log.warning("no way back", rollout=row.id, device=action.device, reason=str(error))
            return None  # it stays unconfirmed, and the rollout says so

    def _assignment(self, action: Assign, rollout: str, config: dict[str, str]) -> Assignment:
        release = action.release
        manifest = self.store.manifest_bytes(release.model, release.version)
        if hashlib.sha256(manifest).hexdigest() != release.digest:
            raise ModelNotFoundError(
                f"the manifest of {release} in {self.store.uri} is not the one with {release.digest}"
            )
        self.offer(release.digest)
        return Assignment(
            device=action.device,
            sequence=action.sequence,
            model=release.model,
            version=release.version,
            manifest_sha256=release.digest,
            manifest_size=len(manifest),
            rollout=rollout,
            config=config,
            deadline=action.deadline,
        )
