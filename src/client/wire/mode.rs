//! The mode of a lock, read more strictly than serde would by itself.

use std::fmt;

use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

/// Who may hold the lock together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    #[default]
    Exclusive,
    Shared,
    /// Some of a number of permits, named in `permits` and `limit`.
    Permits,
}

impl<'de> Deserialize<'de> for Mode {
    /// From its name alone: derived, it would take an object with the name as its key, too.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Name;
        impl Visitor<'_> for Name {
            type Value = Mode;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a mode: \"exclusive\", \"shared\" or \"permits\"")
            }

            fn visit_str<E: de::Error>(self, name: &str) -> Result<Mode, E> {
                match name {
                    "exclusive" => Ok(Mode::Exclusive),
                    "shared" => Ok(Mode::Shared),
                    "permits" => Ok(Mode::Permits),
                    _ => Err(de::Error::invalid_value(de::Unexpected::Str(name), &self)),
                }
            }
        }
        deserializer.deserialize_str(Name)
    }
}
