//! The board and the alerts that ship name only metrics, and labels, that a node really shows.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use crate::cluster::Cluster;
use crate::http::page;
use crate::yaml;

/// Names of series, each with the names of its labels; of families that nothing was counted in yet,
/// the names that they will have.
fn shown(page: &str) -> BTreeMap<String, BTreeSet<String>> {
    let mut series: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for line in page.lines() {
        if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|it| it.split_once(' ')) {
            let endings: &[&str] = match kind {
                "counter" => &["_total"],
                "histogram" => &["_bucket", "_sum", "_count"],
                _ => &[""],
            };
            for ending in endings {
                series.entry(format!("{name}{ending}")).or_default();
            }
        } else if let Some((name, labels)) = line.split_once('{') {
            let labels = labels.split('}').next().unwrap_or_default();
            let labels = labels.split(',').filter_map(|label| label.split_once('='));
            let known = series.entry(name.to_owned()).or_default();
            known.extend(labels.map(|(label, _)| label.to_owned()));
        }
    }
    series
}

/// Names in an expression that begin as ours do, each with the labels in the braces behind it.
fn named(expression: &str) -> Vec<(String, Vec<String>)> {
    let mut found = Vec::new();
    for (at, _) in expression.match_indices("oarlock_") {
        let rest = &expression[at..];
        let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
        let (name, rest) = rest.split_at(end);
        let labels = rest.strip_prefix('{').and_then(|rest| rest.split('}').next());
        let labels =
            labels.unwrap_or_default().split(',').filter_map(|label| label.split('=').next());
        let labels = labels.map(|it| it.trim_end_matches(['~', '!']).to_owned());
        found.push((name.to_owned(), labels.filter(|it| !it.is_empty()).collect()));
    }
    found
}

/// What Prometheus adds to every series.
const ADDED: &[&str] = &["job", "instance", "le"];

fn check(series: &BTreeMap<String, BTreeSet<String>>, expression: &str) -> usize {
    let opened = |c: char| expression.matches(c).count();
    assert_eq!((opened('('), opened('{')), (opened(')'), opened('}')), "{expression}");
    let names = named(expression);
    for (name, labels) in &names {
        let known = series.get(name);
        let known = known.unwrap_or_else(|| panic!("no node shows {name}: {expression}"));
        for label in labels.iter().filter(|label| !ADDED.contains(&label.as_str())) {
            assert!(known.contains(label), "{name} has no label {label}: {expression}");
        }
    }
    let grouped = expression.split("by (").skip(1).filter_map(|rest| rest.split(')').next());
    for label in grouped.flat_map(|labels| labels.split(',')).map(str::trim) {
        let known = names.iter().any(|(name, _)| series[name].contains(label));
        assert!(known || ADDED.contains(&label), "nothing has a label {label}: {expression}");
    }
    names.len()
}

#[test]
fn the_board_and_the_alerts_name_only_metrics_that_exist() {
    let cluster = Cluster::start();
    // Something of every family with labels: a grant, an end, a refusal, a waiter that left.
    let lease = cluster.acquire("board", r#"{"owner":"me","ttl_ms":60000}"#);
    let waits = r#"{"owner":"you","ttl_ms":60000,"wait_ms":50}"#;
    assert_eq!(cluster.acquire("board", waits).status, 409);
    let release = format!("/v1/leases/{}", lease.text("lease_id"));
    assert_eq!(cluster.insist("DELETE", &release, "").status, 200);
    let mut series = BTreeMap::new();
    for node in &cluster.nodes {
        let page = page(&node.api, "/metrics", Duration::from_secs(30)).expect("a page");
        for (name, labels) in shown(&page) {
            series.entry(name).or_insert_with(BTreeSet::new).extend(labels);
        }
    }
    assert!(series.len() > 30, "{series:?}");
    // Only who has certificates shows it: `the_end_of_a_certificate_is_shown_by_its_listener`.
    series.insert("oarlock_certificate_left_seconds".to_owned(), BTreeSet::from(["of".to_owned()]));

    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("cluster/grafana.json");
    let text = fs::read_to_string(path).expect("the board is there");
    let board: Value = serde_json::from_str(&text).expect("JSON");
    let panels = board["panels"].as_array().expect("panels");
    let mut used = 0;
    for panel in panels {
        for target in panel["targets"].as_array().expect("targets") {
            used += check(&series, target["expr"].as_str().expect("an expression"));
        }
    }
    assert!(panels.len() > 15 && used > panels.len(), "{used}");

    let alerts = &yaml::read("cluster/alerts.yml")[0]["groups"][0]["rules"];
    let alerts = alerts.as_array().expect("rules");
    let mut names = BTreeSet::new();
    for alert in alerts {
        check(&series, alert["expr"].as_str().expect("an expression"));
        assert!(names.insert(alert["alert"].as_str().expect("a name")), "{alert}");
        assert!(["page", "ticket"].iter().any(|it| alert["labels"]["severity"] == *it), "{alert}");
        for part in ["summary", "description"] {
            assert!(alert["annotations"][part].is_string(), "{alert}");
        }
    }
    assert!(names.len() >= 10, "{names:?}");
    // The scrape configuration gives the name that the rules ask for, and loads them.
    let prometheus = &yaml::read("cluster/prometheus.yml")[0];
    assert_eq!(prometheus["scrape_configs"][0]["job_name"], "oarlock");
    assert_eq!(prometheus["rule_files"][0], "alerts.yml");
}

#[test]
fn a_name_or_label_that_nobody_shows_is_found() {
    let page = "# TYPE oarlock_a counter\noarlock_a_total{how=\"x\"} 1\n# TYPE oarlock_b gauge\n";
    let series = shown(page);
    check(
        &series,
        "sum by (how) (rate(oarlock_a_total{job=\"oarlock\",how=~\"x.*\"}[5m])) > oarlock_b",
    );
    for wrong in
        ["oarlock_a", "oarlock_c_total", "oarlock_a_total{why=\"x\"}", "sum by (why) (oarlock_b)"]
    {
        let judged = std::panic::catch_unwind(|| check(&series, wrong));
        assert!(judged.is_err(), "{wrong}");
    }
}
