"""What every request passes before it is parsed: the token, the size of its body, and the time to send it."""

import asyncio
import hmac
import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

OPEN_PATHS = ("/health",)


class Gate:
    """ASGI middleware that refuses a request before its body is read into memory or onto the disk."""

    def __init__(self, app: Any, token: str | None, max_bytes: int, seconds: float):
        """Wraps an application.

        Args:
            app: ASGI application.
            token: bearer token that requests must send; None for none.
            max_bytes: largest size of a body.
            seconds: longest time in which a body arrives.
        """
        self._app, self._token, self._max_bytes, self._seconds = app, token, max_bytes, seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {name.lower(): value for name, value in scope["headers"]}
        if not self._is_allowed(scope["path"], headers.get(b"authorization", b"")):
            await _refuse(
                send, 401, "send the header `Authorization: Bearer TOKEN`", [(b"www-authenticate", b"Bearer")]
            )
            return
        stated = headers.get(b"content-length", b"0")
        if not stated.isdigit() or int(stated) > self._max_bytes:
            await _refuse(send, 413, self._too_large())
            return
        await self._app(scope, self._limited(receive), send)

    def _is_allowed(self, path: str, authorization: bytes) -> bool:
        if self._token is None or path in OPEN_PATHS:
            return True
        return hmac.compare_digest(authorization, b"Bearer " + self._token.encode())

    def _limited(self, receive: Receive) -> Receive:
        from fastapi import HTTPException

        size, deadline, ended = 0, asyncio.get_running_loop().time() + self._seconds, False

        async def limited() -> Message:
            nonlocal size, ended
            if ended:  # the application waits for the client to disconnect
                return await receive()
            try:
                async with asyncio.timeout_at(deadline):
                    message = await receive()
            except TimeoutError:
                raise HTTPException(408, f"the body did not arrive within {self._seconds:g} s") from None
            size += len(message.get("body", b""))
            ended = not message.get("more_body", False)
            if size > self._max_bytes:
                raise HTTPException(413, self._too_large())
            return message

        return limited

    def _too_large(self) -> str:
        return f"the body is larger than {self._max_bytes / 1e6:g} MB; send smaller or fewer files"


async def _refuse(send: Send, status: int, detail: str, headers: list[tuple[bytes, bytes]] | None = None) -> None:
    body = json.dumps({"detail": detail}).encode()
    start = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()), *(headers or [])]
    await send({"type": "http.response.start", "status": status, "headers": [*start, (b"connection", b"close")]})
    await send({"type": "http.response.body", "body": body})
