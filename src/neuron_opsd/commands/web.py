"""A local page to ask and to talk: starlette and uvicorn, on the loopback address alone.

Another site open in the same browser cannot use it: a request must name this machine as its host (which DNS rebinding
cannot fake), come from this page (Origin), and be JSON (which a foreign form cannot send). The page loads nothing from
elsewhere, and shows what models say as text. It keeps no conversation: the browser sends it whole with each turn.
"""

import contextlib
import socket
import threading
from collections.abc import Callable
from importlib import resources
from typing import Annotated, Any, Literal

import uvicorn
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from neuron_opsd.commands.ask import answers_of, check_kind, make_question, settings_for
from neuron_opsd.commands.chat import next_reply
from neuron_opsd.commands.loopback import LOOPBACK
from neuron_opsd.commands.speakers import Speakers
from neuron_opsd.errors import NeuronOpsdError
from neuron_opsd.text.prompts import Message

FILES = {
    "/": ("talk.html", "text/html"),
    "/talk.css": ("talk.css", "text/css"),
    "/talk.js": ("talk.js", "text/javascript"),
}
HOSTS = (LOOPBACK, "localhost")
MAX_BODY = 1_000_000  # bytes
MAX_SAMPLES = 64
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src data:; form-action 'none'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    role: str


class Turn(BaseModel):
    """One turn of a conversation."""

    model_config = ConfigDict(extra="forbid")
    role: Literal["user", "assistant"]
    content: str


class AskBody(_Body):
    """A question to one model."""

    question: str
    choices: list[str] = []
    samples: Annotated[int, Field(ge=1, le=MAX_SAMPLES)] | None = None


class ChatBody(_Body):
    """A conversation with one model, which ends with the user."""

    messages: Annotated[list[Turn], Field(min_length=1)]


def make_app(speakers: Speakers, *, port: int, max_new_tokens: int | None = None) -> Starlette:
    """The page and what it calls.

    Args:
        speakers: The models.
        port: Where it is served, for the check of a request's origin.
        max_new_tokens: Of a reply in a conversation, as in `Chat`.
    """
    one_at_a_time = threading.Lock()  # the models share a processor, or a GPU

    def about(_: Request) -> Response:
        settings = speakers.config.evaluation
        return _json(
            {
                "run": speakers.run.folder.path.resolve().name,
                "roles": speakers.roles,
                "samples": settings.num_samples,
                "max_samples": MAX_SAMPLES,
                "counts_samples": not settings.exact or settings.shuffle_choices,
                "needs_choices": settings.exact,
            }
        )

    def answer(body: AskBody) -> Any:
        question = make_question(body.question, body.choices)
        check_kind(speakers, question)
        found = answers_of(speakers, body.role, question, settings_for(speakers, body.samples))
        return found.as_tree() | {"choices": question.choices}

    def reply(body: ChatBody) -> Any:
        messages: list[Message] = [turn.model_dump() for turn in body.messages]
        found = next_reply(speakers, body.role, messages, max_new_tokens=max_new_tokens)
        return {"thinking": found.thinking, "text": found.text, "is_cut": found.is_cut}

    def post(kind: type[_Body], make: Callable[[Any], Any]) -> Callable[[Request], Any]:
        def locked(body: _Body) -> Any:
            with one_at_a_time:
                return make(body)

        async def endpoint(request: Request) -> Response:
            if (refusal := _refusal(request, port)) is not None:
                return refusal
            try:
                body = kind.model_validate_json(await request.body())
                if body.role not in speakers.roles:
                    return _json({"error": f"No model {body.role!r} here."}, status=400)
                return _json(await run_in_threadpool(locked, body))
            except ValidationError as error:
                return _json(
                    {"error": f"Not a request of this page: {error.errors()[0]['msg']}."}, status=400
                )
            except NeuronOpsdError as error:
                return _json({"error": str(error)}, status=400)

        return endpoint

    routes = [Route(path, _file(*file)) for path, file in FILES.items()]
    routes += [
        Route("/about", about),
        Route("/ask", post(AskBody, answer), methods=["POST"]),
        Route("/chat", post(ChatBody, reply), methods=["POST"]),
    ]
    trusted = Middleware(TrustedHostMiddleware, allowed_hosts=list(HOSTS), www_redirect=False)
    return Starlette(routes=routes, middleware=[trusted])


def _refusal(request: Request, port: int) -> Response | None:
    """Why a request is not of this page. None where it is."""
    origin, size = request.headers.get("origin"), request.headers.get("content-length", "")
    if origin is not None and origin not in {f"http://{host}:{port}" for host in HOSTS}:
        return _json({"error": "Requests from other sites are refused."}, status=403)
    if request.headers.get("content-type", "").partition(";")[0] != "application/json":
        return _json({"error": "The body must be application/json."}, status=415)
    if not size.isdecimal() or int(size) > MAX_BODY:
        return _json({"error": f"The body must have a length, of at most {MAX_BODY:,} bytes."}, status=413)
    return None


def _file(name: str, kind: str) -> Callable[[Request], Response]:
    text = (resources.files("neuron_opsd.commands") / name).read_text(encoding="utf-8")
    return lambda _: Response(text, media_type=kind, headers=HEADERS)


def _json(tree: Any, *, status: int = 200) -> Response:
    return JSONResponse(tree, status_code=status, headers=HEADERS)


def serve_page(speakers: Speakers, taken: socket.socket, *, max_new_tokens: int | None = None) -> None:
    """Serve until Ctrl-C, on a socket that is bound."""
    app = make_app(speakers, port=taken.getsockname()[1], max_new_tokens=max_new_tokens)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False, lifespan="off"))
    with contextlib.suppress(KeyboardInterrupt):
        server.run(sockets=[taken])
