"""Who may ask: API keys, known to the service by their SHA-256 only.

Keys are long and random (`asr-sound key` makes one), so one fast hash is enough: there is nothing to guess.
"""

import hashlib
import hmac
import secrets
from collections.abc import Sequence

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from service.errors import WrongKeyError, error_response

OPEN_PATHS = frozenset({"/healthz", "/readyz", "/metrics", "/docs", "/openapi.json"})
MAX_KEY_CHARS = 256
OWNER_DIGITS = 16


class ApiKeys:
    """An ASGI layer that asks for a key before anything is read: `Authorization: Bearer …` or `X-API-Key`.

    Leaves the beginning of the key's hash as `key` in the request's state. Without keys, everybody may ask.
    """

    def __init__(self, app: ASGIApp, hashes: Sequence[str]) -> None:
        self._app = app
        self._hashes = [bytes.fromhex(digest) for digest in hashes]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        guarded = scope["type"] in ("http", "websocket") and scope["path"] not in OPEN_PATHS
        if not self._hashes or not guarded:
            await self._app(scope, receive, send)
            return
        owner = self._owner(_key(Headers(scope=scope)))
        if owner is not None:
            scope["state"]["key"] = owner
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            scope["state"]["error_code"] = "wrong_key"
            await send({"type": "websocket.close", "code": 1008, "reason": "wrong key"})
        else:
            refusal = WrongKeyError("an API key is needed: Authorization: Bearer …")
            await error_response(refusal, scope["state"])(scope, receive, send)

    def _owner(self, key: str) -> str | None:
        """Compares with every hash, in a time that does not depend on where they differ."""
        digest = hashlib.sha256(key[:MAX_KEY_CHARS].encode("utf-8", "surrogateescape")).digest()
        known = [hmac.compare_digest(digest, one) for one in self._hashes]
        return digest.hex()[:OWNER_DIGITS] if key and any(known) else None


def _key(headers: Headers) -> str:
    scheme, _, key = headers.get("Authorization", "").partition(" ")
    return key.strip() if scheme.lower() == "bearer" else headers.get("X-API-Key", "")


def new_key() -> tuple[str, str]:
    """A key and its SHA-256."""
    key = "asr-" + secrets.token_urlsafe(32)
    return key, hashlib.sha256(key.encode()).hexdigest()
