//! The description of the API in the form of `OpenAPI` 3.1, built from the wire types, the routes,
//! the kinds of problems and the bounds of the core, and compared with the committed one, which is
//! what `/openapi.json` serves. So a node carries no schema machinery, and nothing goes out of date
//! unseen.

mod calls;
mod schemas;

use std::collections::{BTreeMap, BTreeSet};

use oarlock_core::limits;
use serde_json::{Map, Value, json};

use self::calls::{Body, CALLS, Call, Sort};
use super::Node;
use crate::api::http::problems::PROBLEMS;
use crate::api::http::routes::Route;

const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/api/openapi.json");

fn document() -> Value {
    let mut paths: BTreeMap<&str, Map<String, Value>> = BTreeMap::new();
    for call in CALLS {
        paths.entry(call.path).or_default().insert(call.method.to_owned(), operation(call));
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "oarlock",
            "version": env!("CARGO_PKG_VERSION"),
            "summary": "Locks with leases, queues and fencing tokens, replicated by Raft",
            "license": { "name": "MIT OR Apache-2.0" },
        },
        "servers": [{ "url": "/" }],
        "security": [{}, { "token": [] }],
        "paths": paths,
        "components": {
            "schemas": schemas::schemas(),
            "securitySchemes": { "token": {
                "type": "http",
                "scheme": "bearer",
                "description": "Needed once the cluster has an access token, or with auth_required.",
            } },
        },
    })
}

fn operation(call: &Call) -> Value {
    let mut operation = json!({
        "operationId": call.id,
        "tags": [call.group],
        "summary": call.summary,
        "responses": responses(call),
    });
    let parameters = parameters(call);
    if !parameters.is_empty() {
        operation["parameters"] = parameters.into();
    }
    let (schema, required) = match call.body {
        Body::None => return operation,
        Body::Empty => ("Nothing", false),
        Body::Schema(schema) | Body::Once(schema) => (schema, true),
    };
    let content = json!({ "application/json": { "schema": reference(schema) } });
    operation["requestBody"] = json!({ "required": required, "content": content });
    operation
}

fn reference(schema: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{schema}") })
}

fn parameters(call: &Call) -> Vec<Value> {
    let mut all = Vec::new();
    let mut add = |name: &str, place: &str, required: bool, schema: Value| {
        all.push(json!({ "name": name, "in": place, "required": required, "schema": schema }));
    };
    let typed = |kind: &str, mut schema: Value| {
        schema["type"] = kind.into();
        schema
    };
    if call.path.contains("{name}") {
        add("name", "path", true, typed("string", schemas::name()));
    }
    if call.path.contains("{id}") {
        let node = json!({ "type": "integer", "minimum": 1 });
        let other = match call.group {
            "members" => node,
            "tokens" => json!({ "type": "string" }),
            _ => typed("string", schemas::lease_or_session_id()),
        };
        add("id", "path", true, other);
    }
    for name in call.query {
        let required =
            matches!((call.id, *name), ("grant", "token") | ("hold", "owner" | "request_id"));
        add(name, "query", required, query(name));
    }
    if matches!(call.body, Body::Once(_)) {
        let uuid = "^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$";
        let schema = json!({ "type": "string", "format": "uuid", "pattern": uuid });
        add("Idempotency-Key", "header", false, schema);
    }
    all
}

fn query(name: &str) -> Value {
    let hexadecimal = format!("^([0-9a-f]{{2}}){{1,{}}}$", limits::NAME_BYTES_MAX);
    match name {
        "consistency" => json!({ "enum": ["linearizable", "stale"], "default": "linearizable" }),
        "token" | "before" => {
            json!({ "type": "integer", "minimum": 0, "maximum": limits::TOKEN_MAX })
        }
        "all" => json!({ "const": "true" }),
        "force" => json!({ "enum": ["true", "false"], "default": "false" }),
        "reason" => json!({ "type": "string", "maxLength": limits::REASON_BYTES_MAX }),
        "lock_delay_ms" => {
            json!({ "type": "integer", "minimum": 0, "maximum": limits::LOCK_DELAY_MS_MAX })
        }
        "prefix" => json!({ "type": "string", "maxLength": limits::NAME_BYTES_MAX }),
        "owner" => json!({ "type": "string", "maxLength": limits::OWNER_BYTES_MAX }),
        "grace_ms" => {
            json!({ "type": "integer", "minimum": 1000, "maximum": limits::GRACE_MS_MAX })
        }
        "wait_ms" => json!({ "type": "integer", "minimum": 0, "maximum": limits::WAIT_MS_MAX }),
        "mode" => json!({ "enum": ["exclusive", "shared", "permits"] }),
        "permits" => json!({ "type": "integer", "minimum": 1, "maximum": limits::PERMITS_MAX }),
        "request_id" => json!({ "type": "string", "format": "uuid" }),
        "from_revision" => json!({ "type": "integer", "minimum": 0 }),
        "limit" => json!({ "type": "integer", "minimum": 1, "maximum": 1000, "default": 100 }),
        "cursor" => json!({ "type": "string", "pattern": hexadecimal }),
        _ => panic!("no schema for the parameter {name}"),
    }
}

/// What a call may be refused with, over all its layers.
fn problems(call: &Call) -> BTreeSet<&'static str> {
    let mut kinds: BTreeSet<&str> = call.problems.iter().copied().collect();
    if call.sort != Sort::Here {
        kinds.extend(["bad-request", "no-leader", "overloaded", "shutting-down"]);
        kinds.insert("unknown-outcome");
    }
    if call.path.starts_with("/v1/") || call.path == "/metrics" {
        kinds.extend(["unauthenticated", "forbidden", "quota-exceeded"]);
    }
    let administers = ["/v1/tokens", "/v1/members", "/v1/backup", "/v1/cluster/leader", "/metrics"];
    if administers.iter().any(|path| call.path.starts_with(path)) {
        kinds.insert("other-listener");
    }
    if call.body != Body::None {
        kinds.extend(["body-timeout", "body-too-large"]);
    }
    if call.path.contains("{name}") {
        kinds.insert("bad-name");
    }
    kinds
}

fn responses(call: &Call) -> Value {
    let mut responses = Map::new();
    let content = match call.answer {
        it if it.contains('/') => json!({ it: { "schema": {} } }),
        // A request that waits may ask to be told of its place meanwhile.
        it if matches!(call.id, "acquire" | "acquire-many") => json!({
            "application/json": { "schema": answer(it) },
            "text/event-stream": { "schema": {} },
        }),
        it => json!({ "application/json": { "schema": answer(it) } }),
    };
    let leader = json!({
        "description": "The id of the node that leads, if known.",
        "schema": { "type": "integer" },
    });
    let headers = json!({ "Oarlock-Leader": leader });
    responses.insert(
        "200".to_owned(),
        json!({ "description": "Done.", "headers": headers, "content": content }),
    );
    let mut by_status: BTreeMap<u16, Vec<&str>> = BTreeMap::new();
    for kind in problems(call) {
        let found = PROBLEMS.iter().find(|(known, _)| *known == kind);
        let (_, status) = found.unwrap_or_else(|| panic!("no problem {kind}"));
        by_status.entry(*status).or_default().push(kind);
    }
    for (status, kinds) in by_status {
        let schema = json!({ "allOf": [
            reference("Problem"),
            { "properties": { "type": { "enum": kinds }, "status": { "const": status } } },
        ] });
        let content = json!({ "application/problem+json": { "schema": schema } });
        let description = kinds.join(", ");
        responses
            .insert(status.to_string(), json!({ "description": description, "content": content }));
    }
    Value::Object(responses)
}

fn answer(name: &str) -> Value {
    if let Some((one, other)) = name.split_once('|') {
        return json!({ "oneOf": [reference(one), reference(other)] });
    }
    let Some(fresh) = name.strip_prefix("Aged") else { return reference(name) };
    let age = json!({ "oneOf": [{ "type": "integer", "minimum": 0 }, { "const": "unknown" }] });
    json!({ "allOf": [reference(fresh), { "properties": { "staleness_ms": age } }] })
}

#[test]
fn the_committed_description_is_the_one_of_the_code() {
    let mut made = serde_json::to_string_pretty(&document()).expect("it is JSON");
    made.push('\n');
    if std::env::var_os("OARLOCK_WRITE_OPENAPI").is_some() {
        std::fs::write(PATH, &made).expect("it can be written");
    }
    let committed = std::fs::read_to_string(PATH).expect("it is there");
    assert!(
        made == committed,
        "docs/api/openapi.json is not what the code says; write it anew with \
         `OARLOCK_WRITE_OPENAPI=1 cargo test --lib openapi` and read the difference"
    );
}

#[test]
fn every_route_and_method_is_described_and_no_other() {
    let described: BTreeSet<(&str, String)> =
        CALLS.iter().map(|call| (call.path, call.method.to_uppercase())).collect();
    let mut served = BTreeSet::new();
    for route in Route::ALL {
        let methods = route.allow().split(", ").filter(|method| *method != "HEAD");
        served.extend(methods.map(|method| (route.pattern(), method.to_owned())));
    }
    assert_eq!(described, served);
}

#[test]
fn every_kind_of_problem_belongs_to_some_call() {
    let told: BTreeSet<&str> = CALLS.iter().flat_map(problems).collect();
    let everywhere = ["method-not-allowed", "not-found"];
    let untold = PROBLEMS.iter().map(|(kind, _)| *kind);
    let untold: Vec<&str> =
        untold.filter(|kind| !told.contains(kind) && !everywhere.contains(kind)).collect();
    assert!(untold.is_empty(), "no call has {untold:?}");
}

#[test]
fn request_bodies_refuse_unknown_fields() {
    let schemas = schemas::schemas();
    for call in CALLS {
        let (Body::Schema(name) | Body::Once(name)) = call.body else { continue };
        assert_eq!(schemas[name]["additionalProperties"], false, "{name}");
    }
}

#[tokio::test]
async fn a_node_serves_its_description() {
    let served = Node::new().send("GET", "/openapi.json", "").await;
    assert_eq!(served.headers["content-type"], "application/json");
    assert_eq!(served.ok(), document());
}
