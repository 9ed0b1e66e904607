//! The schemas of bodies: derived from the wire types, then given the bounds of `limits`, which
//! those types leave to the core to check.

use oarlock_client::wire;
use oarlock_core::limits;
use schemars::SchemaGenerator;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use crate::api::http::problems::PROBLEMS;
use crate::auth::credential::{NAME_BYTES_MAX, RIGHTS_MAX};
use crate::service::members::{INVITATION_MS_MAX, INVITATION_MS_MIN};
use crate::service::tokens::{TTL_MS_MAX, TTL_MS_MIN};

/// All schemas by name.
pub(super) fn schemas() -> Map<String, Value> {
    let settings = || {
        let mut settings = SchemaSettings::draft2020_12();
        settings.definitions_path = "/components/schemas".into();
        settings.meta_schema = None;
        settings
    };
    let mut requests = settings().for_deserialize().into_generator();
    requests.subschema_for::<wire::AcquireRequest>();
    requests.subschema_for::<wire::AcquireManyRequest>();
    requests.subschema_for::<wire::HandOverRequest>();
    requests.subschema_for::<wire::SessionRequest>();
    requests.subschema_for::<wire::FenceRequest>();
    requests.subschema_for::<wire::ValueRequest>();
    requests.subschema_for::<wire::LeaderRequest>();
    requests.subschema_for::<wire::InvitationRequest>();
    requests.subschema_for::<wire::ReplaceRequest>();
    requests.subschema_for::<wire::AccessTokenRequest>();
    requests.subschema_for::<wire::FirstTokenRequest>();
    requests.subschema_for::<wire::Nothing>();
    let mut answers = settings().for_serialize().into_generator();
    answered(&mut answers);
    let mut all = requests.take_definitions(false);
    all.append(&mut answers.take_definitions(false));
    for (schema, property, keywords) in bounds() {
        bound(&mut all, schema, property, keywords);
    }
    let types: Vec<&str> = PROBLEMS.iter().map(|(kind, _)| *kind).collect();
    bound(&mut all, "Problem", "type", json!({ "enum": types }));
    // `null` deletes, so it must be said; serde takes an `Option` for optional.
    all["ValueRequest"]["required"] = json!(["lease_id", "value"]);
    for request in ["AcquireRequest", "AcquireManyRequest", "HandOverRequest"] {
        all[request]["anyOf"] =
            json!([{ "required": ["owner", "ttl_ms"] }, { "required": ["session_id"] }]);
    }
    all
}

fn answered(answers: &mut SchemaGenerator) {
    answers.subschema_for::<wire::Lease>();
    answers.subschema_for::<wire::Leases>();
    answers.subschema_for::<wire::Lock>();
    answers.subschema_for::<wire::Locks>();
    answers.subschema_for::<wire::ForceReleased>();
    answers.subschema_for::<wire::Released>();
    answers.subschema_for::<wire::LeaseState>();
    answers.subschema_for::<wire::Session>();
    answers.subschema_for::<wire::SessionClosed>();
    answers.subschema_for::<wire::Value>();
    answers.subschema_for::<wire::ValueDeleted>();
    answers.subschema_for::<wire::History>();
    answers.subschema_for::<wire::PastGrant>();
    answers.subschema_for::<wire::Fence>();
    answers.subschema_for::<wire::Cluster>();
    answers.subschema_for::<wire::Leader>();
    answers.subschema_for::<wire::Members>();
    answers.subschema_for::<wire::Invitation>();
    answers.subschema_for::<wire::MembersChanged>();
    answers.subschema_for::<wire::AccessToken>();
    answers.subschema_for::<wire::AccessTokens>();
    answers.subschema_for::<wire::AccessTokenRevoked>();
    answers.subschema_for::<wire::Problem>();
    answers.subschema_for::<wire::Staleness>();
}

/// Adds keywords to one property; it is an error if the type has no such property.
fn bound(all: &mut Map<String, Value>, schema: &str, property: &str, keywords: Value) {
    let found = all.get_mut(schema).and_then(|schema| schema["properties"].get_mut(property));
    let found = found.unwrap_or_else(|| panic!("{schema} has no {property}"));
    let (Some(found), Value::Object(keywords)) = (found.as_object_mut(), keywords) else {
        panic!("{schema}.{property} is not a schema with keywords");
    };
    found.extend(keywords);
}

pub(super) fn lease_or_session_id() -> Value {
    json!({ "pattern": "^[0-9a-f]{32}$" })
}

pub(super) fn token() -> Value {
    json!({ "minimum": 0, "maximum": limits::TOKEN_MAX })
}

/// A name as it may stand in a path or body. The bound is in bytes of UTF-8, which is the same for
/// ASCII and stricter for the rest.
pub(super) fn name() -> Value {
    json!({
        "minLength": 1,
        "maxLength": limits::NAME_BYTES_MAX,
        "pattern": "^(?!\\.{1,2}(/|$))[^/\\u0000-\\u001f\\u007f-\\u009f]+(/(?!\\.{1,2}(/|$))[^/\\u0000-\\u001f\\u007f-\\u009f]+)*$",
    })
}

fn text(bytes_max: usize) -> Value {
    json!({ "minLength": 1, "maxLength": bytes_max, "pattern": "^[^\\u0000-\\u001f\\u007f-\\u009f]*$" })
}

fn access_name() -> Value {
    let pattern = format!("^[A-Za-z0-9._-]{{1,{NAME_BYTES_MAX}}}$");
    json!({ "pattern": pattern })
}

fn ms(max: u64) -> Value {
    json!({ "minimum": 0, "maximum": max })
}

fn bounds() -> Vec<(&'static str, &'static str, Value)> {
    let metadata = || {
        json!({ "description": format!(
            "Texts that others may see; keys and values have at most {} bytes together.",
            limits::METADATA_BYTES_MAX
        ) })
    };
    let owner = || text(limits::OWNER_BYTES_MAX);
    let permits = || json!({ "minimum": 1, "maximum": limits::PERMITS_MAX });
    let ttl = json!({ "minimum": limits::TTL_MS_MIN, "maximum": limits::TTL_MS_MAX });
    let grace = json!({
        "minimum": 0, "maximum": limits::GRACE_MS_MAX, "default": limits::GRACE_MS_DEFAULT,
    });
    let uuid = || json!({ "format": "uuid", "pattern": "^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$" });
    let mut bounds = vec![
        (
            "AcquireManyRequest",
            "locks",
            json!({ "minItems": 1, "maxItems": limits::LOCKS_PER_ACQUIRE_MAX }),
        ),
        ("AcquireManyRequest", "wait_ms", ms(limits::WAIT_MS_MAX)),
        ("AcquireManyRequest", "grace_ms", grace.clone()),
        ("ClaimRequest", "name", name()),
        ("ClaimRequest", "permits", permits()),
        ("ClaimRequest", "limit", permits()),
        ("ClaimRequest", "lock_delay_ms", ms(limits::LOCK_DELAY_MS_MAX)),
        ("AcquireRequest", "owner", owner()),
        ("AcquireRequest", "wait_ms", ms(limits::WAIT_MS_MAX)),
        ("AcquireRequest", "grace_ms", grace),
        ("AcquireRequest", "permits", permits()),
        ("AcquireRequest", "limit", permits()),
        ("AcquireRequest", "lock_delay_ms", ms(limits::LOCK_DELAY_MS_MAX)),
        ("AcquireRequest", "session_id", lease_or_session_id()),
        ("AcquireRequest", "request_id", uuid()),
        ("AcquireRequest", "metadata", metadata()),
        ("SessionRequest", "owner", owner()),
        ("SessionRequest", "ttl_ms", ttl),
        ("SessionRequest", "request_id", uuid()),
        ("SessionRequest", "metadata", metadata()),
        ("FenceRequest", "name", name()),
        ("FenceRequest", "token", json!({ "minimum": 0, "maximum": u64::MAX })),
        ("ValueRequest", "lease_id", lease_or_session_id()),
        ("ValueRequest", "value", json!({ "maxLength": limits::VALUE_BYTES_MAX })),
        (
            "InvitationRequest",
            "ttl_ms",
            json!({ "minimum": INVITATION_MS_MIN, "maximum": INVITATION_MS_MAX }),
        ),
        ("AccessTokenRequest", "name", access_name()),
        ("FirstTokenRequest", "name", access_name()),
        ("AccessTokenRequest", "rights", json!({ "minItems": 1, "maxItems": RIGHTS_MAX })),
        ("AccessTokenRequest", "ttl_ms", json!({ "minimum": TTL_MS_MIN, "maximum": TTL_MS_MAX })),
        (
            "AccessTokenRequest",
            "requests_per_second",
            json!({ "minimum": 1, "maximum": 1_000_000 }),
        ),
        ("Lease", "token", token()),
        ("Lease", "lease_id", lease_or_session_id()),
        ("Session", "session_id", lease_or_session_id()),
        ("Problem", "status", json!({ "minimum": 400, "maximum": 599 })),
    ];
    for request in ["AcquireManyRequest", "HandOverRequest"] {
        bounds.push((request, "owner", owner()));
        bounds.push((request, "session_id", lease_or_session_id()));
        bounds.push((request, "request_id", uuid()));
        bounds.push((request, "metadata", metadata()));
    }
    bounds
}
