"""Top-k over HTTP: ``CHECKPOINT=out/model.pt DATA=data.npz UNKNOWN=popular uvicorn --factory examples.serve:app``."""

import os

from fastapi import Body, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse

from pyg_ckd import __version__
from pyg_ckd.datasets import load
from pyg_ckd.errors import InputError
from pyg_ckd.serving import Recommender


def app(recommender: Recommender | None = None) -> FastAPI:
    """Return the service: ``GET /health``, ``/version``, ``/recommend/USER?k=20`` and ``POST /recommend``."""
    data, unknown = os.environ.get("DATA"), os.environ.get("UNKNOWN", "error")  # A saved recommender needs no DATA.
    served = recommender or Recommender.load(os.environ["CHECKPOINT"], load(data) if data else None)

    def many(users: list[int | str] = Body(), k: int = Body(20), exclude_seen: bool = Body(True)) -> JSONResponse:  # noqa: B008
        found = served.recommend(served.users.parse(map(str, users)), k, exclude_seen, unknown=unknown)
        rows = zip(*(x.tolist() for x in (found.users, found.items, found.scores, found.sources)), strict=True)
        cut = [(u, i, s, f, s.index(-float("inf")) if s[-1] == -float("inf") else k) for u, i, s, f in rows]
        return JSONResponse([{"user": u, "items": i[:n], "scores": s[:n], "from": f} for u, i, s, f, n in cut])

    def one(user: str, k: int = 20) -> JSONResponse:
        return many([user], k, True)

    async def refuse(request: Request, error: Exception) -> JSONResponse:
        wrong = error.errors()[0] if isinstance(error, RequestValidationError) else None
        line = str(error) if wrong is None else f"{wrong['loc'][-1]}: found {wrong['input']!r:.80}, {wrong['msg']}"
        return JSONResponse({"error": line}, 404 if line.startswith("unknown user") else 422)

    service = FastAPI(title="pyg-ckd", exception_handlers={InputError: refuse, RequestValidationError: refuse})
    service.get("/health")(lambda: {"status": "ok"})
    service.get("/version")(lambda: {"pyg_ckd": __version__, "users": len(served.users), "items": len(served.items)})
    service.get("/recommend/{user}")(one)
    service.post("/recommend")(many)
    return service
