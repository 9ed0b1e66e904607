"""Steers the fuzzer towards what is interesting: waits stay short, and about half of the calls meet
locks, leases and sessions that exist. Values that the description refuses are left as they are."""

import re
import zlib

import schemathesis

LOCKS = ["a", "b/c", "d"]
NAME = re.compile(r"[^/\x00-\x1f\x7f-\x9f]+(/[^/\x00-\x1f\x7f-\x9f]+)*")
ID = re.compile(r"[0-9a-f]{32}")
WAIT_MS_MAX = 3_600_000
seen = {"lease": [], "session": []}


def chosen(text, among):
    """One of the known values for about half of the texts, always the same for the same text."""
    roll = zlib.crc32(text.encode("utf-8", "surrogatepass"))
    return among[roll // 2 % len(among)] if roll % 2 and among else text


@schemathesis.hook
def map_path_parameters(context, path_parameters):
    if not isinstance(path_parameters, dict):
        return path_parameters
    name, id = path_parameters.get("name"), path_parameters.get("id")
    if isinstance(name, str) and NAME.fullmatch(name) and not {".", ".."} & set(name.split("/")):
        path_parameters["name"] = chosen(name, LOCKS)
    if isinstance(id, str) and ID.fullmatch(id):
        kind = "session" if "/sessions/" in context.operation.path else "lease"
        path_parameters["id"] = chosen(id, seen[kind])
    return path_parameters


@schemathesis.hook
def map_body(context, body):
    if not isinstance(body, dict):
        return body
    wait = body.get("wait_ms")
    if isinstance(wait, int) and not isinstance(wait, bool) and 0 <= wait <= WAIT_MS_MAX:
        body["wait_ms"] = min(wait, 50)
    for field in ("lease", "session"):
        id = body.get(field + "_id")
        if isinstance(id, str) and ID.fullmatch(id):
            body[field + "_id"] = chosen(id, seen[field])
    if context.operation.method.upper() == "POST" and "/locks" in context.operation.path:
        coherent(body)
    return body


def coherent(body):
    """Drops what is valid by itself but refused beside the rest, so that more calls are granted."""
    if isinstance(body.get("session_id"), str) and isinstance(body.get("ttl_ms"), int):
        if 100 <= body["ttl_ms"] <= 86_400_000:
            del body["ttl_ms"]
    if body.get("mode") == "permits":
        body.setdefault("limit", 5)
    else:
        for field in ("permits", "limit"):
            if isinstance(body.get(field), int) and 1 <= body[field] <= 100_000:
                del body[field]


@schemathesis.hook
def after_call(context, case, response):
    try:
        body = response.json()
    except Exception:
        return
    for field in ("lease", "session"):
        id = body.get(field + "_id") if isinstance(body, dict) else None
        if isinstance(id, str) and ID.fullmatch(id):
            seen[field] = [id] + seen[field][:7]
