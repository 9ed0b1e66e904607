//! Lock names and ids as they come in paths and bodies.
//!
//! Proxies and clients rewrite paths: they collapse `//`, resolve `.` and `..`, and decode `%2F`
//! or not. A name is refused when its path form would not survive that; what remains means the
//! same however it is sent.

use oarlock_core::ids::{LeaseId, LockName, RequestId, SessionId};
use percent_encoding::percent_decode_str;

use super::error::Refusal;

/// The name at the end of a path, percent-decoded exactly once; `+` is literal.
pub(super) fn from_path(raw: &str) -> Result<LockName, Refusal> {
    if !escapes_are_whole(raw) {
        return Err(Refusal::bad_name("a % in a path is followed by two hexadecimal digits"));
    }
    match percent_decode_str(raw).decode_utf8() {
        Ok(name) => checked(&name),
        Err(_) => Err(Refusal::bad_name("a lock name is UTF-8, percent-encoded once")),
    }
}

/// The same rules for a name that did not come in a path, so that every lock has a path.
pub(super) fn checked(name: &str) -> Result<LockName, Refusal> {
    if name.split('/').any(|segment| matches!(segment, "" | "." | "..")) {
        return Err(Refusal::bad_name(
            "no segment of a lock name, between slashes, is empty, `.` or `..`: proxies and \
             clients rewrite such paths",
        ));
    }
    LockName::new(name).map_err(|invalid| Refusal::bad_name(&invalid.0))
}

fn escapes_are_whole(raw: &str) -> bool {
    raw.split('%').skip(1).all(|rest| {
        let mut digits = rest.bytes();
        (0..2).all(|_| digits.next().is_some_and(|b| b.is_ascii_hexdigit()))
    })
}

pub(super) fn lease_id(text: &str) -> Result<LeaseId, Refusal> {
    text.parse().map_err(|_| Refusal::bad_request("a lease id is 32 lower-case hexadecimal digits"))
}

pub(super) fn session_id(text: &str) -> Result<SessionId, Refusal> {
    text.parse()
        .map_err(|_| Refusal::bad_request("a session id is 32 lower-case hexadecimal digits"))
}

/// A request id: a UUID with hyphens, so that nobody uses a constant like `1`.
pub(super) fn request_id(text: &str) -> Result<RequestId, Refusal> {
    let hyphenated = text.len() == uuid::fmt::Hyphenated::LENGTH;
    match uuid::Uuid::parse_str(text) {
        Ok(uuid) if hyphenated && !uuid.is_nil() && !uuid.is_max() => Ok(RequestId(uuid.as_u128())),
        Ok(_) | Err(_) => Err(Refusal::bad_request(
            "a request id is a UUID with hyphens, such as one from `uuidgen`, fresh for each \
             request and kept for its repeats",
        )),
    }
}
