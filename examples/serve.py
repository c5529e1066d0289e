"""Top-k over HTTP: ``CHECKPOINT=out/model.pt DATA=data.npz UNKNOWN=popular uvicorn --factory examples.serve:app``."""

import os

from fastapi import FastAPI, Request, exceptions
from fastapi.responses import JSONResponse
from pydantic import BaseModel, StrictBool, StrictInt, StrictStr

from pyg_ckd import __version__, datasets, serving
from pyg_ckd.errors import InputError
from pyg_ckd.serving.results import NothingLeft


class Asked(BaseModel, extra="forbid"):
    """What ``POST /recommend`` takes."""

    users: list[StrictInt | StrictStr]
    k: StrictInt = 20
    exclude_seen: StrictBool = True


def app(recommender: serving.Recommender | None = None) -> FastAPI:
    """Return the service: ``GET /health``, ``/version``, ``/recommend/USER?k=20`` and ``POST /recommend``."""
    place, data = (os.environ.get(name) for name in ("CHECKPOINT", "DATA"))  # A saved recommender needs no DATA.
    served = recommender or serving.Recommender.load(place or "$CHECKPOINT", datasets.load(data) if data else None)
    served.find_users([], unknown := os.environ.get("UNKNOWN", "error"))  # Refuses any other word than these two.

    def many(asked: Asked) -> JSONResponse:
        users = served.users.parse(map(str, asked.users))
        try:
            found = served.recommend(users, k := asked.k, asked.exclude_seen, unknown=unknown)
        except NothingLeft as error:
            found = error.lists
        rows = zip(*(x.tolist() for x in (found.users, found.items, found.scores, found.sources)), strict=True)
        cut = [(u, i, s, f, s.index(-float("inf")) if s[-1] == -float("inf") else k) for u, i, s, f in rows]
        return JSONResponse([{"user": u, "items": i[:n], "scores": s[:n], "from": f} for u, i, s, f, n in cut])

    def one(user: str, k: int = 20) -> JSONResponse:
        return many(Asked(users=[user], k=k))

    async def refuse(request: Request, error: Exception) -> JSONResponse:
        wrong = error.errors()[0] if isinstance(error, exceptions.RequestValidationError) else None
        line = str(error) if wrong is None else f"{wrong['loc'][:2][-1]}: found {wrong['input']!r:.80}, {wrong['msg']}"
        return JSONResponse({"error": line}, 404 if line.startswith("unknown user") else 422)

    bad = (InputError, exceptions.RequestValidationError, UnicodeEncodeError)  # The last of ids with lone surrogates.
    service = FastAPI(title="pyg-ckd", exception_handlers=dict.fromkeys(bad, refuse))
    service.get("/health")(lambda: {"status": "ok"})
    service.get("/version")(lambda: {"pyg_ckd": __version__, "users": len(served.users), "items": len(served.items)})
    service.get("/recommend/{user:path}")(one)
    service.post("/recommend")(many)
    return service
