"""The service in FastAPI: embeds, classifies and captions uploads, and searches an index, over HTTP."""

import dataclasses
import ipaddress
import os
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import numpy as np

from slap_jax.errors import UserError, printable
from slap_jax.inference.audio_input import DecodedFile, stream_item
from slap_jax.inference.protocol import EmbeddingModel
from slap_jax.search.index import SearchError, SearchIndex
from slap_jax.search.search import Hit, search
from slap_jax.serve.gate import Gate
from slap_jax.serve.jobs import BusyError, Jobs, SlowError

try:
    from fastapi import FastAPI, File, Form, Request, Security, UploadFile
    from fastapi.exceptions import HTTPException, RequestValidationError
    from fastapi.responses import JSONResponse
    from fastapi.security import HTTPBearer
    from pydantic import BaseModel, Field, StringConstraints
except ImportError as error:
    raise UserError(f"the service needs FastAPI ({error}): pip install 'slap-jax[serve]'") from None

MAX_FILES, MAX_TEXTS, MAX_CHARACTERS = 32, 1_000, 2_000
_RETRY_SECONDS = 1

Result = TypeVar("Result")
Text = Annotated[str, StringConstraints(min_length=1, max_length=MAX_CHARACTERS)]
Files = Annotated[list[UploadFile], File(min_length=1, max_length=MAX_FILES, description="Audio files of any format.")]


class ServeError(UserError, ValueError):
    """The service cannot start."""


@dataclasses.dataclass(frozen=True)
class Limits:
    """Bounds of the service.

    Attributes:
        megabytes: size of the body of a request.
        audio_seconds: total duration of the audio of a request.
        request_seconds: time to send a body, and time from there to the result.
        waiting: number of requests that may run or wait; more are refused with status 503.
    """

    megabytes: float = 50.0
    audio_seconds: float = 600.0
    request_seconds: float = 60.0
    waiting: int = 16


class Info(BaseModel):
    """The model and the bounds of the service."""

    model_id: str = Field(description="Identifies weights, settings and vocabulary.")
    embed_dim: int = Field(description="Size of the embeddings.")
    sample_rate: int = Field(description="Rate to which audio is converted, in Hz.")
    can_caption: bool
    can_search: bool
    version: str = Field(description="Version of slap_jax.")
    limits: dict[str, float]


class Embeddings(BaseModel):
    """Unit vectors: the cosine similarity of two of them is their dot product."""

    model_id: str
    audio: list[list[float]] = Field(description="One vector for each file.")
    text: list[list[float]] = Field(description="One vector for each text.")


class Classes(BaseModel):
    """Probabilities of the labels of each file, the most probable first."""

    results: list[dict[str, float]]


class Captions(BaseModel):
    """One sentence for each file."""

    results: list[str]


class Moment(BaseModel):
    """A window of an indexed recording."""

    path: str = Field(description="Path below the indexed folder.")
    start: float = Field(description="Seconds from the start of the recording.")
    end: float
    score: float = Field(description="Comparable among the hits of one query only.")


class Hits(BaseModel):
    """The best moments, the best first."""

    results: list[Moment]


class Error(BaseModel):
    """Why a request was refused."""

    detail: str


_STATUSES: dict[int | str, dict[str, Any]] = {
    401: {"model": Error, "description": "The bearer token is missing or wrong"},
    408: {"model": Error, "description": "The body did not arrive in time"},
    413: {"model": Error, "description": "The body or the audio in it exceeds the limits"},
    400: {"model": Error, "description": "The body is not a form"},
    422: {"model": Error, "description": "A field is missing or impossible, or a file is not usable audio"},
    503: {"model": Error, "description": "Too many requests are waiting, or the index cannot be read; try again"},
    504: {"model": Error, "description": "There was no result in time"},
}


def create_app(
    model: EmbeddingModel, index: SearchIndex | None = None, limits: Limits | None = None, token: str | None = None
) -> FastAPI:
    """Builds the service.

    Args:
        model: answers requests, one at a time.
        index: index of the folder that /search searches; None for a service without search.
        limits: bounds; None for the defaults.
        token: bearer token that every request except /health must send; None for a service without one.

    Returns:
        The ASGI application. /openapi.json describes it, and /docs shows the description.
    """
    limits = limits or Limits()
    jobs = Jobs(limits.waiting, limits.request_seconds)

    app = FastAPI(
        title="slap_jax",
        version=_version(),
        description="Embeds, classifies, captions and searches sound. Send forms (multipart/form-data).",
        dependencies=[Security(HTTPBearer(auto_error=False))] if token else [],
    )
    app.add_middleware(Gate, token=token, max_bytes=int(limits.megabytes * 1e6), seconds=limits.request_seconds)
    _add_error_handlers(app)

    async def with_audio(files: Sequence[UploadFile], infer: Callable[[list[DecodedFile]], Result]) -> Result:
        """Decodes the files and runs the model on them, as one job."""
        names = [printable(file.filename or f"file {number}") for number, file in enumerate(files)]
        contents = [await file.read() for file in files]

        def job() -> Result:
            left = limits.audio_seconds
            clips = []
            for name, data in zip(names, contents, strict=True):
                clips.append(_decode(data, name, model.sample_rate, left, limits.audio_seconds))
                left -= len(clips[-1].samples) / model.sample_rate
            return infer(clips)

        return await jobs.run(job)

    @app.get("/health")
    async def health() -> dict[str, str]:
        """Answers while the service runs; needs no token."""
        return {"status": "ok"}

    @app.get("/", responses={401: _STATUSES[401]})
    async def info() -> Info:
        """Describes the model and the limits."""
        return Info(
            model_id=model.model_id,
            embed_dim=model.embed_dim,
            sample_rate=model.sample_rate,
            can_caption=model.can_caption,
            can_search=index is not None,
            version=_version(),
            limits=dataclasses.asdict(limits),
        )

    @app.post("/embed", responses=_STATUSES)
    async def embed(  # FastAPI copies the defaults that B006 warns of
        audio: Annotated[list[UploadFile], File(max_length=MAX_FILES, description="Audio files of any format.")] = [],  # noqa: B006
        text: Annotated[list[Text], Form(max_length=MAX_TEXTS, description="Texts.")] = [],  # noqa: B006
    ) -> Embeddings:
        """Embeds audio files, texts, or both."""
        if not audio and not text:
            raise HTTPException(422, "there is nothing to embed; send `audio` files, `text`, or both")

        def infer(clips: list[DecodedFile]) -> Embeddings:
            sounds = model.embed_audio(clips).tolist() if clips else []
            return Embeddings(
                model_id=model.model_id, audio=sounds, text=model.embed_text(text).tolist() if text else []
            )

        return await with_audio(audio, infer)

    @app.post("/classify", responses=_STATUSES)
    async def classify(
        audio: Files,
        labels: Annotated[
            list[Text], Form(min_length=1, max_length=MAX_TEXTS, description="The labels to choose from.")
        ],
        template: Annotated[Text, Form(description="Name of a prompt template, or a prompt with {}.")] = "ensemble",
    ) -> Classes:
        """Says how well each label fits each file, relative to the other labels."""
        return Classes(results=await with_audio(audio, lambda clips: model.classify(clips, labels, template=template)))

    if model.can_caption:
        captioner: Any = model

        @app.post("/caption", responses=_STATUSES)
        async def caption(
            audio: Files, beam: Annotated[int, Form(ge=1, le=16, description="Beam width.")] = 1
        ) -> Captions:
            """Describes each file in one sentence."""
            return Captions(results=await with_audio(audio, lambda clips: captioner.caption(clips, beam=beam)))

    if index is not None:

        @app.post("/search", responses=_STATUSES)
        async def search_index(
            text: Annotated[Text | None, Form(description="Description of the sound.")] = None,
            audio: Annotated[UploadFile | None, File(description="A recording to search for.")] = None,
            k: Annotated[int, Form(ge=1, le=1_000, description="Number of hits.")] = 10,
            per_file: Annotated[int | None, Form(ge=1, le=1_000, description="Largest number in one file.")] = None,
        ) -> Hits:
            """Finds the moments of the indexed recordings that match a text, a sound, or both."""
            if text is None and audio is None:
                raise HTTPException(422, "there is nothing to search for; send `text`, `audio`, or both")

            def infer(clips: list[DecodedFile]) -> Hits:
                hits = search(model, index, text, clips[0] if clips else None, k, per_file)
                return Hits(results=[_moment(hit, index.root) for hit in hits])

            return await with_audio([] if audio is None else [audio], infer)

    return app


def serve(
    model: EmbeddingModel,
    folder: Path | None = None,
    host: str = "127.0.0.1",
    port: int = 8000,
    token: str | None = None,
    limits: Limits | None = None,
) -> None:
    """Serves a model until it is interrupted.

    Args:
        model: answers requests.
        folder: folder to search, indexed with the same model.
        host: address to listen at; the default is reachable from this machine only.
        port: port to listen at.
        token: bearer token; required if other machines can reach the address.
        limits: bounds; None for the defaults.

    Raises:
        ServeError: another machine could reach a service without a token, or the address cannot be used.
        SearchError: the folder has no index, or another model made it.
    """
    import uvicorn

    limits = limits or Limits()
    require_safe(host, token)
    index = None if folder is None else SearchIndex(folder)
    if index is not None:
        index.check_model(model.model_id, model.embed_dim)
    try:
        listener = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise ServeError(f"cannot listen at {host}, port {port} ({error.strerror}); choose another --port") from None
    # Compiles before the first request.
    model.embed_audio([(0.1 * np.random.default_rng(0).standard_normal(model.sample_rate), model.sample_rate)])
    model.embed_text(["a sound"])
    app = create_app(model, index, limits, token)
    config = uvicorn.Config(
        app, log_level="warning", limit_concurrency=limits.waiting + 64, timeout_keep_alive=5, server_header=False
    )
    at = f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}"
    print(f"listening at {at}, described at {at}/docs; stop with Ctrl+C", file=sys.stderr, flush=True)
    uvicorn.Server(config).run(sockets=[listener])


def require_safe(host: str, token: str | None) -> None:
    """Raises `ServeError` if other machines could reach the service without a token, or if the token is unusable."""
    if token is not None and (not token or not token.isascii() or not token.isprintable() or " " in token):
        raise ServeError("the token is empty or has characters besides printable ASCII; choose another")
    if token is None and not _is_loopback(host):
        raise ServeError(
            f"--host {host} lets other machines reach the service; set a token in the environment variable SLAP_TOKEN, "
            "or listen at 127.0.0.1"
        )


def _add_error_handlers(app: FastAPI) -> None:
    """Makes every error one line in `detail`."""

    def respond(status: int, detail: str) -> JSONResponse:
        headers = {"Retry-After": str(_RETRY_SECONDS)} if status == 503 else None
        return JSONResponse({"detail": detail}, status, headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        problems = [f"{'.'.join(map(str, item['loc'][1:])) or 'body'}: {item['msg']}" for item in error.errors()]
        return respond(422, "; ".join(problems))

    @app.exception_handler(UserError)
    async def refused(_: Request, error: UserError) -> JSONResponse:
        return respond(503 if isinstance(error, SearchError) else 422, str(error))

    @app.exception_handler(BusyError)
    async def busy(_: Request, error: BusyError) -> JSONResponse:
        return respond(503, f"{error}; try again later")

    @app.exception_handler(SlowError)
    async def slow(_: Request, error: SlowError) -> JSONResponse:
        return respond(504, f"{error}; send shorter or fewer files")


def _decode(data: bytes, name: str, rate: int, left: float, limit: float) -> DecodedFile:
    """Decodes an upload block by block, and stops at the limit: a small file can hold hours of silence."""
    blocks, samples = [], 0
    for block in stream_item(data, rate, name):
        samples += len(block)
        if samples > left * rate:
            raise HTTPException(413, f"{name}: the audio of a request may last {limit:g} s in total; send less")
        blocks.append(block)
    return DecodedFile(name, np.concatenate(blocks), rate)


def _moment(hit: Hit, root: Path) -> Moment:
    """Names the file by its path below the indexed folder: where the folder is concerns this machine only."""
    return Moment(path=Path(os.path.relpath(hit.path, root)).as_posix(), start=hit.start, end=hit.end, score=hit.score)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _version() -> str:
    from slap_jax import __version__

    return __version__
