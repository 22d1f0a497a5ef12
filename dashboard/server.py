"""What is served: Streamlit's app, whose pages know where its server is, and items of maps."""

from __future__ import annotations

from http import HTTPStatus
from pathlib import Path

import streamlit as st
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse
from starlette.routing import Route

from dashboard import hover

_HERE = Path(__file__).parent
# Without it a page at /explore asks /explore/_stcore/health first, which is a 404 on the console.
_KNOWS_ITS_SERVER = (
    "<script>window.__streamlit = {BACKEND_BASE_URL: new URL('.', location).href}</script>"
)


async def _page(_: Request) -> HTMLResponse:
    html = (Path(st.__file__).parent / "static" / "index.html").read_text(encoding="utf-8")
    told = html.replace("<head>", f"<head>{_KNOWS_ITS_SERVER}", 1)
    return HTMLResponse(told, headers={"Cache-Control": "no-cache"})


def _hover(request: Request) -> JSONResponse:  # in a thread of its own: it reads files
    found = hover.item(request.path_params["map"], request.path_params["row"])
    return JSONResponse(found, status_code=HTTPStatus.OK if found else HTTPStatus.NOT_FOUND)


_NAMES = [path.stem for path in sorted((_HERE / "screens").glob("[a-z]*.py"))]
_PAGES = [Route(f"/{name}", _page, methods=["GET"]) for name in ["", *_NAMES]]
app = st.App(_HERE / "app.py", routes=[*_PAGES, Route("/hover/{map}/{row:int}", _hover)])
