//! A name in a path is refused, or it is one name under which the lock is found again however the
//! path is written.

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
    for path in [encoded.as_str(), &String::from_utf8_lossy(data)] {
        http::run(format!("GET /v1/locks/{path}").as_bytes());
    }
}
