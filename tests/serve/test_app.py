"""The service, with a fake model: answers, refusals, bounds, and conformance to its own description."""

import asyncio
import io
import threading

import numpy as np
import pytest
import soundfile
from fastapi.testclient import TestClient

from slap_jax.search.index import SearchIndex
from slap_jax.search.update import update_index
from slap_jax.serve.app import Limits, ServeError, create_app, serve
from tests.search.fake_model import RATE, FakeModel, tone, write

JUNK = [b"RIFFnothing", b"", b"\x00" * 4_000, b"\xff\xfb\x90" * 50, bytes(range(256)) * 20]


def wav(kind: int, seconds: float = 1.0) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, tone(kind, seconds), RATE, format="WAV")
    return buffer.getvalue()


def audio(*contents: bytes) -> list:
    return [("audio", (f"clip{number}.wav", content)) for number, content in enumerate(contents)]


@pytest.fixture
def index(tmp_path):
    write(tmp_path / "sounds" / "low.wav", tone(0, 1))
    write(tmp_path / "sounds" / "deep" / "high.flac", tone(3, 1))
    update_index(FakeModel(), tmp_path / "sounds", progress=False)
    return SearchIndex(tmp_path / "sounds")


@pytest.fixture
def client(index):
    with TestClient(create_app(FakeModel(), index)) as client:
        yield client


def test_answers_are_those_of_the_model(client):
    info = client.get("/").json()
    assert (info["model_id"], info["embed_dim"]) == ("fake00000001", 4) and info["can_caption"] and info["can_search"]
    answer = client.post("/embed", files=audio(wav(2), wav(0)), data={"text": ["tone 2", "tone 1"]}).json()
    np.testing.assert_array_equal(answer["audio"], FakeModel().embed_audio([wav(2), wav(0)]))
    np.testing.assert_array_equal(answer["text"], FakeModel().embed_text(["tone 2", "tone 1"]))
    assert client.post("/embed", data={"text": "tone 2"}).json()["audio"] == []
    answer = client.post("/classify", files=audio(wav(1)), data={"labels": ["tone 0", "tone 1"]}).json()
    assert list(answer["results"][0]) == ["tone 1", "tone 0"]
    assert client.post("/caption", files=audio(wav(1)), data={"beam": 2}).json() == {"results": ["tone 1 again"]}
    for request in ({"data": {"text": "tone 3", "k": 1}}, {"files": audio(wav(3)), "data": {"k": 1}}):
        (hit,) = client.post("/search", **request).json()["results"]
        assert hit["path"] == "deep/high.flac" and hit["score"] > 0.9


@pytest.mark.parametrize(
    ("path", "request_", "status", "detail"),
    [
        ("/embed", {}, 422, "nothing to embed"),
        ("/embed", {"data": {"text": [""]}}, 422, "text.0: String should have at least 1 character"),
        ("/embed", {"data": {"text": ["x" * 2_001]}}, 422, "at most 2000 characters"),
        ("/embed", {"content": b"{", "headers": {"content-type": "application/json"}}, 422, "nothing to embed"),
        ("/classify", {"files": audio(wav(1))}, 422, "labels: Field required"),
        ("/classify", {"data": {"labels": ["a"]}}, 422, "audio: Field required"),
        (
            "/classify",
            {"files": audio(wav(1)), "data": {"labels": "tone 1", "template": "loud"}},
            422,
            "template 'loud'",
        ),
        ("/caption", {"files": audio(wav(1)), "data": {"beam": "many"}}, 422, "beam: Input should be a valid integer"),
        ("/caption", {"files": audio(*[wav(1, 0.01)] * 33)}, 422, "audio: List should have at most 32 items"),
        ("/search", {}, 422, "nothing to search for"),
        ("/search", {"data": {"text": "tone 1", "k": 0}}, 422, "k: Input should be greater than or equal to 1"),
        ("/nothing", {}, 404, "Not Found"),
    ],
)
def test_a_bad_request_gets_one_line(client, path, request_, status, detail):
    response = client.post(path, **request_)
    assert response.status_code == status and detail in response.json()["detail"]
    assert "\n" not in response.json()["detail"]


@pytest.mark.parametrize("content", JUNK)
def test_a_file_that_is_not_audio_is_named(client, content):
    response = client.post("/embed", files=audio(wav(1), content))
    assert response.status_code == 422 and "clip1.wav" in response.json()["detail"]
    assert client.post("/embed", files=audio(wav(1))).status_code == 200


def test_a_malformed_form_is_a_client_error(client):
    for body in (b"", b"--x\r\n", b"--x\r\nContent-Disposition: form-data\r\n\r\nabc\r\n--x--", b"\xff" * 100):
        headers = {"content-type": "multipart/form-data; boundary=x"}
        assert client.post("/classify", content=body, headers=headers).status_code in (400, 422)
    assert client.post("/classify", content=b"x", headers={"content-type": "multipart/form-data"}).status_code in (
        400,
        422,
    )


def test_size_and_duration_are_bounded():
    model = FakeModel()
    with TestClient(create_app(model, limits=Limits(megabytes=0.1, audio_seconds=2.0))) as client:
        assert client.post("/embed", files=audio(wav(1, 1.5))).status_code == 200
        response = client.post("/embed", files=audio(wav(1, 10)))
        assert response.status_code == 413 and "larger than 0.1 MB" in response.json()["detail"]
        chunks = (wav(1)[:1_000] for _ in range(200))  # a body of unknown length
        response = client.post("/embed", content=chunks, headers={"content-type": "multipart/form-data; boundary=x"})
        assert response.status_code == 413
        silence = io.BytesIO()
        soundfile.write(silence, np.zeros(RATE * 600), RATE, format="FLAC")  # 10 minutes in a few kB
        assert len(silence.getvalue()) < 90_000
        model.heard.clear()
        response = client.post("/embed", files=audio(silence.getvalue()))
        assert response.status_code == 413 and "may last 2 s in total" in response.json()["detail"]
        assert client.post("/embed", files=audio(wav(1, 1.2), wav(1, 1.2))).status_code == 413
        assert model.heard == []  # the limit is checked before the model runs


def test_a_token_is_required_before_the_body_is_read():
    with TestClient(create_app(FakeModel(), token="secret", limits=Limits(megabytes=0.01))) as client:
        assert client.get("/health").status_code == 200
        for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": "Basic secret"}):
            response = client.post("/embed", files=audio(wav(1, 60)), headers=headers)  # it is also too large
            assert response.status_code == 401 and response.headers["www-authenticate"] == "Bearer"
            assert (
                client.get("/", headers=headers).status_code == client.get("/docs", headers=headers).status_code == 401
            )
        headers = {"authorization": "Bearer secret"}
        assert client.post("/embed", data={"text": "tone 1"}, headers=headers).status_code == 200
        schema = client.get("/openapi.json", headers=headers).json()
        assert schema["components"]["securitySchemes"]["HTTPBearer"]["scheme"] == "bearer"


def test_without_a_decoder_or_an_index_there_is_no_such_path():
    model = FakeModel()
    model.can_caption = False
    with TestClient(create_app(model)) as client:
        assert set(client.get("/openapi.json").json()["paths"]) == {"/", "/health", "/embed", "/classify"}
        assert client.post("/caption").status_code == client.post("/search").status_code == 404


class SlowModel(FakeModel):
    """Embeds texts when it may."""

    def __init__(self):
        super().__init__()
        self.may, self.runs = threading.Event(), 0

    def embed_text(self, texts):
        self.runs += 1
        assert self.may.wait(30)
        return super().embed_text(texts)


def test_the_queue_is_bounded_and_a_late_result_is_dropped():
    """Of 5 requests at once with room for 3, 2 are refused at once and 3 wait too long; a dropped job never runs."""
    import httpx

    model = SlowModel()
    app = create_app(model, limits=Limits(waiting=3, request_seconds=0.5))

    async def requests():
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:

            async def post():
                return (await client.post("/embed", data={"text": "tone 1"})).status_code

            first = await asyncio.gather(*[post() for _ in range(5)])
            second = [await post()]  # the job that runs still has its place, and two are free
            model.may.set()
            while (third := await post()) == 503:
                await asyncio.sleep(0.01)
            return first, second, third

    first, second, third = asyncio.run(requests())
    assert sorted(first) == [503, 503, 504, 504, 504] and second == [504] and third == 200
    assert model.runs == 2  # the first job, and the last


def test_a_slow_upload_ends():
    async def requests():
        app = create_app(FakeModel(), limits=Limits(request_seconds=0.2))
        sent = []

        async def receive():
            await asyncio.sleep(30)
            raise AssertionError

        async def send(message):
            sent.append(message)

        headers = [(b"content-type", b"multipart/form-data; boundary=x"), (b"content-length", b"1000")]
        scope = {"type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "path": "/embed"}
        scope |= {"raw_path": b"/embed", "query_string": b"", "headers": headers, "scheme": "http", "root_path": ""}
        await app({**scope, "server": ("test", 80), "client": ("test", 1)}, receive, send)
        return sent[0]["status"]

    assert asyncio.run(requests()) == 408


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"host": "0.0.0.0"}, "lets other machines reach the service; set a token"),
        ({"host": "::"}, "lets other machines"),
        ({"token": ""}, "the token is empty"),
        ({"token": "two words"}, "characters besides printable ASCII"),
        ({"host": "192.0.2.1", "token": "x"}, "cannot listen at 192.0.2.1"),
    ],
)
def test_a_service_that_cannot_start(arguments, message):
    with pytest.raises(ServeError, match=message):
        serve(FakeModel(), **{"port": 0, **arguments})
