"""Sign in with a token on a form, and out: the session is a signed cookie."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from subtitled.http.auth import SESSION_COOKIE, SESSION_S, SIGN_IN, new_session
from subtitled.http.forms import drain, read_form
from subtitled.web import rendering

MAX_BODY_BYTES = 8192


async def sign_in(request: Request) -> Response:
    """Show the form, or accept it: redirect to the page that was requested before."""
    if request.method == "GET":
        return rendering.sign_in_page(request, 200, target_of(request.query_params.get("next", "/")))
    fields = await read_form(request, MAX_BODY_BYTES)
    target = target_of(fields.get("next", ["/"])[-1])
    session = new_session(fields.get("token", [""])[-1].strip(), request.app.state.tokens)
    if session is None:
        return rendering.sign_in_page(request, 401, target, is_wrong=bool(request.app.state.tokens))
    response = RedirectResponse(target, 303)
    response.set_cookie(
        SESSION_COOKIE,
        session,
        max_age=SESSION_S,
        httponly=True,
        samesite="lax",
        secure=request.headers.get("origin", "").startswith("https://"),
    )
    return response


async def sign_out(request: Request) -> Response:
    """End the session of this browser."""
    await drain(request)
    response = RedirectResponse(SIGN_IN, 303)
    response.delete_cookie(SESSION_COOKIE, httponly=True, samesite="lax")
    return response


def target_of(address: str) -> str:
    """Return an address of this server to go to; the overview in place of any other."""
    is_own = address.startswith("/") and not address.startswith(("//", "/\\", SIGN_IN))
    return address[:2000] if is_own and address.isprintable() else "/"
