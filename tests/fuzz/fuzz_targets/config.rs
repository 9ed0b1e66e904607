//! A configuration is either usable or refused with sentences; what is usable says the same when it
//! is written out and read again.

use oarlock::config::Config;

pub(crate) fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match Config::parse(text, []) {
        Ok(config) => {
            let written = toml::to_string(&config).expect("a configuration can be written");
            assert_eq!(Config::parse(&written, []), Ok(config));
        }
        Err(errors) => {
            assert!(!errors.0.is_empty() && errors.0.iter().all(|it| !it.is_empty()), "{errors:?}");
        }
    }
}
