//! A name in a path is refused, or it is one name under which the lock is found again however the
//! path is written.

use axum::http::StatusCode;
use oarlock_core::ids::LockName;
use percent_encoding::{NON_ALPHANUMERIC, percent_decode, utf8_percent_encode};

use super::http;

pub(crate) fn run(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data)
        && let Ok(name) = LockName::new(text)
    {
        assert_eq!(name.as_str(), text);
        assert!(!text.is_empty() && text.len() <= 512 && !text.chars().any(char::is_control));
    }
    let encoded = utf8_percent_encode(&String::from_utf8_lossy(data), NON_ALPHANUMERIC).to_string();
    assert_eq!(
        percent_decode(encoded.as_bytes()).decode_utf8_lossy(),
        String::from_utf8_lossy(data)
    );
    is_found_again(&encoded);
    for path in [encoded.as_str(), &String::from_utf8_lossy(data)] {
        http::run(format!("GET /v1/locks/{path}").as_bytes());
    }
}

/// What is held under a path is shown under the same one, however it is written, and under the name
/// that the answers say; a name that is no name is refused each time.
fn is_found_again(encoded: &str) {
    let path = format!("/v1/locks/{encoded}");
    let acquire = Some(r#"{"owner": "fuzz", "ttl_ms": 60000}"#);
    let lower = format!("/v1/locks/{}", encoded.to_ascii_lowercase().replace("%2f", "/"));
    let again = if percent_decode(lower.as_bytes()).eq(percent_decode(path.as_bytes())) {
        lower
    } else {
        path.clone()
    };
    let asked = http::asked(&[(path, acquire), (again, None), ("/v1/locks".to_owned(), None)]);
    let Some(answers) = asked else { return };
    let [(taken, lease), (seen, lock), (_, all)] = answers.as_slice() else { return };
    if *taken != StatusCode::OK {
        // A name that people can only write encoded may be refused where it is not.
        assert!(!seen.is_success() || lock["held"] == false, "{lease} {lock}");
        return assert_eq!(all["locks"].as_array().map(Vec::len), Some(0), "{lease} {all}");
    }
    assert_eq!(lock["lock"], lease["lock"]);
    assert_eq!(lock["holders"][0]["token"], lease["token"], "{lock}");
    assert_eq!(all["locks"][0]["lock"], lease["lock"], "{all}");
    let name = percent_decode(encoded.as_bytes()).decode_utf8_lossy();
    assert_eq!(lease["lock"], *name, "held under another name");
}
