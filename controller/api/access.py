"""What every route asks for: the services, and an actor with the role that the route needs."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, HTTPException, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from controller.api.services import Services
from controller.api.tokens import Actor, Role, authenticate

__all__ = ["Admin", "Operator", "Parts", "Viewer"]

_bearer = HTTPBearer(auto_error=False, description="A token of `vedette init`, or one given out by an admin.")


def _services(request: Request) -> Services:
    services: Services = request.app.state.services
    return services


Parts = Annotated[Services, Depends(_services)]


class _Requires:
    """A dependency that lets in who has at least *role*."""

    def __init__(self, role: Role) -> None:
        self._role = role

    def __call__(
        self, services: Parts, bearer: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]
    ) -> Actor:
        """Return who asks."""
        if bearer is None:
            raise HTTPException(401, "no bearer token; send the one of `vedette init` in the Authorization header")
        with services.database.read() as session:
            actor = authenticate(session, bearer.credentials)
        if actor is None:
            raise HTTPException(401, "the bearer token is not known to this controller")
        if actor.role < self._role:
            raise HTTPException(403, f"token {actor.name!r} is a {actor.role.word}'s; this needs {self._role.word}")
        return actor


Viewer = Annotated[Actor, Depends(_Requires(Role.VIEWER))]
Operator = Annotated[Actor, Depends(_Requires(Role.OPERATOR))]
Admin = Annotated[Actor, Depends(_Requires(Role.ADMIN))]
