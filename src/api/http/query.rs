//! Query strings: known parameters only, each at most once.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

use super::error::Refusal;

/// The parameters of one request.
pub(super) struct Parameters(Vec<(String, String)>);

impl Parameters {
    /// Reads a query string; anything but the allowed parameters is refused.
    pub(super) fn read(query: Option<&str>, allowed: &[&str]) -> Result<Self, Refusal> {
        let mut pairs: Vec<(String, String)> = Vec::new();
        for pair in query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let (key, value) = (decode(key)?, decode(value)?);
            if !allowed.contains(&key.as_str()) {
                let known = if allowed.is_empty() { "none".to_owned() } else { allowed.join(", ") };
                return Err(Refusal::bad_request(&format!(
                    "unknown query parameter `{}`; known here: {known}",
                    key.escape_debug()
                )));
            }
            if pairs.iter().any(|(known, _)| *known == key) {
                return Err(Refusal::bad_request(&format!("`{key}` comes twice in the query")));
            }
            pairs.push((key, value));
        }
        Ok(Self(pairs))
    }

    pub(super) fn text(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == key).map(|(_, value)| value.as_str())
    }

    /// A whole number of at most `max`.
    pub(super) fn number(&self, key: &str, max: u64) -> Result<Option<u64>, Refusal> {
        let Some(text) = self.text(key) else { return Ok(None) };
        match text.parse::<u64>() {
            Ok(number) if number <= max => Ok(Some(number)),
            Ok(_) | Err(_) => {
                Err(Refusal::bad_request(&format!("`{key}` is a whole number of at most {max}")))
            }
        }
    }

    /// Whether the caller accepts an answer from this node's own state.
    pub(super) fn stale(&self) -> Result<bool, Refusal> {
        match self.text("consistency") {
            None | Some("linearizable") => Ok(false),
            Some("stale") => Ok(true),
            Some(_) => Err(Refusal::bad_request("`consistency` is linearizable or stale")),
        }
    }
}

/// Form decoding, as every client library writes queries: `+` is a space here, unlike in paths.
fn decode(text: &str) -> Result<String, Refusal> {
    let text: Cow<'_, str> =
        if text.contains('+') { text.replace('+', " ").into() } else { text.into() };
    match percent_decode_str(&text).decode_utf8() {
        Ok(decoded) => Ok(decoded.into_owned()),
        Err(_) => Err(Refusal::bad_request("the query is UTF-8, percent-encoded")),
    }
}
