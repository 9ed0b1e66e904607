//! The variables that OpenTelemetry defines for every program. They win over our settings, as
//! `OARLOCK_…` does. Those that are not read here are read by the SDK: headers, resource attributes,
//! bounds of the queue (`OTEL_BSP_…`) and of spans.

use std::env;
use std::time::Duration;

use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::Sampler;

use super::Settings;

/// What exporters wait for a collector, unless a variable says otherwise.
const EXPORT_DEADLINE: Duration = Duration::from_secs(10);

/// What these samplers do is in the specification; others have no meaning without a service of their own.
const SAMPLERS: &[&str] = &[
    "always_on",
    "always_off",
    "traceidratio",
    "parentbased_always_on",
    "parentbased_always_off",
    "parentbased_traceidratio",
];

fn read(name: &str) -> Option<String> {
    // The specification takes an empty variable for one that is not set.
    env::var(name).ok().filter(|value| !value.is_empty())
}

/// Where traces go, as a whole URL; `None` for nowhere.
pub(super) fn endpoint(settings: &Settings<'_>) -> Option<String> {
    let is_off = |name, word: &str| read(name).is_some_and(|it| it.eq_ignore_ascii_case(word));
    if is_off("OTEL_SDK_DISABLED", "true") || is_off("OTEL_TRACES_EXPORTER", "none") {
        return None;
    }
    if let Some(whole) = read("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") {
        return Some(whole);
    }
    let configured = (!settings.endpoint.is_empty()).then(|| settings.endpoint.to_owned());
    let base = read("OTEL_EXPORTER_OTLP_ENDPOINT").or(configured)?;
    Some(format!("{}/v1/traces", base.trim_end_matches('/')))
}

/// Refuses what this program cannot do: another exporter or protocol, or another way for a caller to
/// tell of its trace. Baggage is not read.
pub(super) fn check() -> Result<(), String> {
    if let Some(exporter) = read("OTEL_TRACES_EXPORTER")
        && !exporter.eq_ignore_ascii_case("otlp")
    {
        return Err(format!("OTEL_TRACES_EXPORTER is {exporter:?}: there are otlp and none."));
    }
    let names = ["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"];
    if let Some((name, protocol)) = first_of(names)
        && protocol != "http/protobuf"
    {
        return Err(format!(
            "{name} is {protocol:?}: this program speaks http/protobuf (port 4318) alone."
        ));
    }
    if let Some(propagators) = read("OTEL_PROPAGATORS")
        && !propagators.split(',').any(|it| it.trim().eq_ignore_ascii_case("tracecontext"))
    {
        return Err(format!(
            "OTEL_PROPAGATORS is {propagators:?}: callers' traces are read from tracecontext."
        ));
    }
    Ok(())
}

/// The first of these variables that is set.
fn first_of(names: [&str; 2]) -> Option<(&str, String)> {
    names.into_iter().find_map(|name| Some((name, read(name)?)))
}

/// Which traces are kept: what the variable says, read by the SDK, or our ratio for traces that begin
/// here and the caller's word for those that do not.
pub(super) fn sampler(settings: &Settings<'_>) -> Result<Option<Sampler>, String> {
    match read("OTEL_TRACES_SAMPLER") {
        Some(name) if SAMPLERS.contains(&name.as_str()) => {
            let ratio = read("OTEL_TRACES_SAMPLER_ARG").map(|ratio| ratio.trim().parse());
            let is_bad = |ratio| !matches!(ratio, Ok(ratio) if (0.0..=1.0).contains(&ratio));
            if name.ends_with("traceidratio") && ratio.is_some_and(is_bad) {
                return Err("OTEL_TRACES_SAMPLER_ARG is 0.0 (none) to 1.0 (all).".to_owned());
            }
            Ok(None)
        }
        Some(name) => Err(format!(
            "OTEL_TRACES_SAMPLER is {name:?}; these are known: {}.",
            SAMPLERS.join(", ")
        )),
        None => {
            let ours = Sampler::TraceIdRatioBased(settings.sample_ratio);
            Ok(Some(Sampler::ParentBased(Box::new(ours))))
        }
    }
}

/// Whose traces these are.
pub(super) fn resource(settings: &Settings<'_>) -> Resource {
    let attributes = read("OTEL_RESOURCE_ATTRIBUTES").unwrap_or_default();
    let names = |key: &str| attributes.split(',').any(|it| it.trim_start().starts_with(key));
    let mut resource = Resource::builder();
    if read("OTEL_SERVICE_NAME").is_none() && !names("service.name=") {
        resource = resource.with_service_name(settings.service_name.to_owned());
    }
    let own = [
        ("service.version", env!("CARGO_PKG_VERSION").to_owned()),
        ("service.instance.id", settings.node_id.to_string()),
    ];
    let own = own.into_iter().filter(|(key, _)| !names(&format!("{key}=")));
    resource
        .with_attributes(own.map(|(key, value)| opentelemetry::KeyValue::new(key, value)))
        .build()
}

/// How long one export may take.
pub(super) fn deadline() -> Result<Duration, String> {
    let names = ["OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "OTEL_EXPORTER_OTLP_TIMEOUT"];
    let Some((name, ms)) = first_of(names) else { return Ok(EXPORT_DEADLINE) };
    let parsed = ms.trim().parse().map(Duration::from_millis);
    parsed.map_err(|_| format!("{name} is a number of milliseconds, not {ms:?}."))
}
