//! Schemas of the types whose JSON is written by hand. Everything else derives its own.

use std::borrow::Cow;

use oarlock_core::limits::{TTL_MS_MAX, TTL_MS_MIN};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use super::{Staleness, TtlMs};

impl JsonSchema for TtlMs {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "TtlMs".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "Milliseconds, or null for a lock without expiry.",
            "type": ["integer", "null"],
            "minimum": TTL_MS_MIN,
            "maximum": TTL_MS_MAX,
        })
    }
}

impl JsonSchema for Staleness {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Staleness".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "How old a stale answer may be.",
            "oneOf": [{ "type": "integer", "minimum": 0 }, { "const": "unknown" }],
        })
    }
}
