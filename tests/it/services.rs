//! What ships for systemd and Kubernetes: valid, hardened, and in agreement with itself, with the
//! compose file, and with what the program accepts.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use oarlock::config::Config;
use serde_json::{Value, json};

use crate::yaml;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// Of systemd's ten, for a service that needs the network and a directory.
const EXPOSURE_MAX_TENTHS: &str = "20";

/// Every name of a field that the manifests use. One that is not here is a slip, or is added on
/// purpose: Kubernetes drops fields that it does not know without a word.
#[rustfmt::skip]
const FIELDS: &[&str] = &[
    "accessModes", "allowPrivilegeEscalation", "annotations", "apiVersion", "args",
    "automountServiceAccountToken", "capabilities", "clusterIP", "configMap", "containerPort",
    "containers", "cpu", "data", "drop", "enableServiceLinks", "env", "failureThreshold", "fieldPath",
    "fieldRef", "from", "fsGroup", "fsGroupChangePolicy", "httpGet", "image", "ingress", "kind",
    "labels", "labelSelector", "limits", "livenessProbe", "matchLabels", "maxSkew", "maxUnavailable",
    "memory", "metadata", "minReadySeconds", "mountPath", "name", "oarlock.toml", "ordinals", "path",
    "periodSeconds", "podManagementPolicy", "namespaceSelector",
    "podSelector", "policyTypes", "port", "ports",
    "publishNotReadyAddresses", "readOnly", "readOnlyRootFilesystem", "readinessProbe", "replicas",
    "requests", "resources", "runAsGroup", "runAsNonRoot", "runAsUser", "seccompProfile",
    "securityContext", "selector", "serviceName", "spec", "start", "startupProbe", "storage",
    "targetPort", "template", "terminationGracePeriodSeconds", "timeoutSeconds", "topologyKey",
    "topologySpreadConstraints", "type", "updateStrategy", "valueFrom", "volumeClaimTemplates",
    "volumeMounts", "volumes", "whenUnsatisfiable",
];

const APP: &str = "app.kubernetes.io/name";

fn text(path: &str) -> String {
    fs::read_to_string(Path::new(ROOT).join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn accepted(text: &str, variables: &[(&str, String)]) -> Config {
    let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), value.clone()));
    Config::parse(text, variables).unwrap_or_else(|errors| panic!("{errors}\n{text}"))
}

#[test]
fn the_systemd_unit_is_valid_and_hardened() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let unit = dir.path().join("oarlock.service");
    let shipped = text("cluster/oarlock.service");
    // The program is looked for, and is not installed here.
    let program = env!("CARGO_BIN_EXE_oarlock");
    fs::write(&unit, shipped.replace("/usr/bin/oarlock serve", &format!("{program} serve")))
        .expect("written");
    let threshold = format!("--threshold={EXPOSURE_MAX_TENTHS}");
    for arguments in [&["verify"][..], &["security", "--offline=true", &threshold]] {
        let output = Command::new("systemd-analyze").args(arguments).arg(&unit).output();
        let output = output.expect("systemd-analyze of the package systemd is needed");
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said).into_owned();
        assert!(output.status.success(), "{arguments:?}: {said}");
        assert!(arguments[0] != "verify" || said.is_empty(), "it is not quite right: {said}");
    }
    let line = |name: &str| shipped.lines().find_map(|line| line.strip_prefix(name));
    // The command line is one that the program understands, up to the missing file.
    let started = line("ExecStart=/usr/bin/oarlock ").expect("a command");
    let output = Command::new(program).args(started.split(' ')).output().expect("it runs");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(2) && said.contains("cannot read /etc/"), "{said}");
    let (name, dir) = line("Environment=").and_then(|it| it.split_once('=')).expect("a variable");
    let config = accepted("", &[(name, dir.to_owned())]);
    assert_eq!(config.data_dir, Path::new("/var/lib/oarlock"), "the StateDirectory");
    let stop_s: u64 = line("TimeoutStopSec=").and_then(|it| it.parse().ok()).expect("seconds");
    assert!(stop_s >= 10, "a stop takes up to ten seconds");
}

#[test]
fn every_configuration_that_ships_is_accepted() {
    for id in 1..=3 {
        let config = accepted(&text(&format!("cluster/node{id}.toml")), &[]);
        assert_eq!(config.node_id, id);
        let config =
            accepted(&text("cluster/compose.toml"), &[("OARLOCK_NODE_ID", id.to_string())]);
        assert_eq!(config.members.len(), 3);
        let maps = yaml::read("cluster/kubernetes/configmap.yaml");
        let shown = maps[0]["data"]["oarlock.toml"].as_str().expect("a text");
        let config = accepted(shown, &[("OARLOCK_NODE_ID", id.to_string())]);
        assert_eq!(config.data_dir, Path::new("/var/lib/oarlock"));
    }
    // Nodes of the compose file bear the names that their configuration tells the others.
    let compose = &yaml::read("docker-compose.yml")[0];
    let config = accepted(&text("cluster/compose.toml"), &[]);
    for member in config.members {
        let service = &compose["services"][format!("node{}", member.id)];
        assert_eq!(service["environment"]["OARLOCK_NODE_ID"], member.id.to_string());
        assert_eq!(member.peer_address, format!("node{}:7401", member.id));
    }
}

/// The manifests, all documents of all files.
fn manifests() -> Vec<Value> {
    let folder = Path::new(ROOT).join("cluster/kubernetes");
    let names = fs::read_dir(folder).expect("the folder is there");
    let names = names.map(|entry| entry.expect("an entry").file_name().into_string());
    let mut names: Vec<String> = names.map(|name| name.expect("a name")).collect();
    names.sort();
    names.iter().flat_map(|name| yaml::read(&format!("cluster/kubernetes/{name}"))).collect()
}

fn of_kind<'a>(all: &'a [Value], kind: &str, name: &str) -> &'a Value {
    let found = all.iter().find(|it| it["kind"] == kind && it["metadata"]["name"] == name);
    found.unwrap_or_else(|| panic!("there is no {kind} {name}"))
}

fn fields_are_known(value: &Value, path: &str) {
    match value {
        Value::Object(fields) => {
            for (name, inner) in fields {
                let free =
                    ["labels", "matchLabels", "annotations"].iter().any(|it| path.ends_with(it));
                let free = free || path == "Service.spec.selector";
                assert!(free || FIELDS.contains(&name.as_str()), "{path}.{name} is not known");
                fields_are_known(inner, &format!("{path}.{name}"));
            }
        }
        Value::Array(items) => items.iter().for_each(|item| fields_are_known(item, path)),
        Value::Null => panic!("{path} says nothing"),
        Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[test]
fn the_manifests_have_known_kinds_and_fields() {
    let known = [
        ("ConfigMap", "v1"),
        ("Service", "v1"),
        ("StatefulSet", "apps/v1"),
        ("PodDisruptionBudget", "policy/v1"),
        ("NetworkPolicy", "networking.k8s.io/v1"),
    ];
    let all = manifests();
    let mut names = BTreeSet::new();
    for it in &all {
        let kind = it["kind"].as_str().expect("a kind");
        assert!(
            known.iter().any(|(of, version)| *of == kind && it["apiVersion"] == *version),
            "{it}"
        );
        assert!(names.insert((kind, it["metadata"]["name"].to_string())), "{kind} is there twice");
        fields_are_known(it, kind);
    }
    assert_eq!(names.len(), 6, "{names:?}");
}

#[test]
fn the_manifests_agree_with_each_other_and_with_the_program() {
    let all = manifests();
    let set = of_kind(&all, "StatefulSet", "oarlock");
    let (pod, labels) =
        (&set["spec"]["template"]["spec"], &set["spec"]["template"]["metadata"]["labels"]);
    let container = &pod["containers"][0];
    let selectors = [
        &set["spec"]["selector"]["matchLabels"],
        &of_kind(&all, "Service", "oarlock")["spec"]["selector"],
        &of_kind(&all, "Service", "oarlock-peers")["spec"]["selector"],
        &of_kind(&all, "PodDisruptionBudget", "oarlock")["spec"]["selector"]["matchLabels"],
        &of_kind(&all, "NetworkPolicy", "oarlock")["spec"]["podSelector"]["matchLabels"],
        &pod["topologySpreadConstraints"][0]["labelSelector"]["matchLabels"],
    ];
    for selector in selectors {
        assert_eq!((selector[APP].as_str(), selector), (Some("oarlock"), labels));
    }
    let service = of_kind(&all, "Service", set["spec"]["serviceName"].as_str().expect("a name"));
    assert_eq!(service["spec"]["clusterIP"], "None", "each pod has a name of its own");
    assert_eq!(service["spec"]["publishNotReadyAddresses"], true, "also before they are ready");

    // Ports: what the program binds, what the container shows, what services and probes name.
    let config = of_kind(&all, "ConfigMap", "oarlock")["data"]["oarlock.toml"].as_str();
    let config = accepted(config.expect("a text"), &[]);
    let shown = container["ports"].as_array().expect("ports");
    let number = |name: &str| {
        let port = shown.iter().find(|port| port["name"] == name);
        port.unwrap_or_else(|| panic!("no port {name}"))["containerPort"].as_u64()
    };
    let bound = |address: &str| address.rsplit_once(':').and_then(|(_, port)| port.parse().ok());
    assert_eq!(number("api"), bound(&config.api_address));
    assert_eq!(number("peers"), bound(&config.peer_address));
    for name in ["oarlock", "oarlock-peers"] {
        for port in of_kind(&all, "Service", name)["spec"]["ports"].as_array().expect("ports") {
            assert_eq!(number(port["targetPort"].as_str().expect("a name")), port["port"].as_u64());
        }
    }
    let described: Value = serde_json::from_str(&text("docs/api/openapi.json")).expect("JSON");
    for (probe, path) in
        [("startupProbe", "/livez"), ("livenessProbe", "/livez"), ("readinessProbe", "/readyz")]
    {
        let asks = &container[probe]["httpGet"];
        assert_eq!((&asks["path"], &asks["port"]), (&path.into(), &"api".into()));
        assert!(!described["paths"][path].is_null(), "the program answers {path}");
    }

    // Pod 1 is node 1, under the name that its members' list says.
    let first = set["spec"]["ordinals"]["start"].as_u64().expect("a number");
    let count = set["spec"]["replicas"].as_u64().expect("a number");
    let ids: Vec<u64> = config.members.iter().map(|member| member.id).collect();
    assert_eq!(ids, (first..first + count).collect::<Vec<_>>());
    for member in &config.members {
        let name = format!("oarlock-{}.oarlock-peers:7401", member.id);
        assert_eq!(member.peer_address, name);
    }
    assert_eq!(container["env"][0]["name"], "OARLOCK_NODE_ID");
    let from = &container["env"][0]["valueFrom"]["fieldRef"]["fieldPath"];
    assert_eq!(from, "metadata.labels['apps.kubernetes.io/pod-index']");

    // Volumes: the data where the configuration has it, the configuration where the command has it.
    let mounted = |path: &str| {
        let mounts = container["volumeMounts"].as_array().expect("mounts");
        let mount = mounts.iter().find(|mount| mount["mountPath"] == path);
        mount.unwrap_or_else(|| panic!("nothing at {path}"))["name"].clone()
    };
    let data = config.data_dir.to_str().expect("a path");
    assert_eq!(mounted(data), set["spec"]["volumeClaimTemplates"][0]["metadata"]["name"]);
    assert_eq!(mounted("/etc/oarlock"), pod["volumes"][0]["name"]);
    assert_eq!(pod["volumes"][0]["configMap"]["name"], "oarlock");
    assert_eq!(container["args"][2], "/etc/oarlock/oarlock.toml");
}

#[test]
fn image_and_user_are_the_same_everywhere() {
    let all = manifests();
    let pod = &of_kind(&all, "StatefulSet", "oarlock")["spec"]["template"]["spec"];
    let image = pod["containers"][0]["image"].as_str().expect("an image");
    assert_eq!(image, format!("oarlock:{}", env!("CARGO_PKG_VERSION")));
    let compose = text("docker-compose.yml");
    assert!(compose.contains(&format!("image: ${{OARLOCK_IMAGE:-{image}}}")), "{compose}");
    let dockerfile = text("cluster/Dockerfile");
    assert!(dockerfile.contains(&format!("--tag {image} ")), "{dockerfile}");
    let user = pod["securityContext"]["runAsUser"].as_u64().expect("a number");
    assert!(dockerfile.contains(&format!("USER {user}:{user}\n")), "{dockerfile}");
    assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
    let inside = &pod["containers"][0]["securityContext"];
    assert_eq!(
        (&inside["readOnlyRootFilesystem"], &inside["allowPrivilegeEscalation"]),
        (&true.into(), &false.into())
    );
}

#[test]
fn the_policy_lets_in_the_nodes_their_clients_and_prometheus() {
    let all = manifests();
    let rules = &of_kind(&all, "NetworkPolicy", "oarlock")["spec"]["ingress"];
    let rules: Vec<(Value, Vec<&str>)> = rules
        .as_array()
        .expect("rules")
        .iter()
        .map(|rule| {
            let ports = rule["ports"].as_array().expect("ports").iter();
            let ports = ports.map(|port| port["port"].as_str().expect("a name")).collect();
            (rule["from"].clone(), ports)
        })
        .collect();
    let pods =
        |label: &str, value: &str| json!({ "podSelector": { "matchLabels": { label: value } } });
    let mut prometheus = pods(APP, "prometheus");
    // Alone it would mean the namespace of the nodes, in which it hardly ever runs.
    let monitoring = json!({ "matchLabels": { "kubernetes.io/metadata.name": "monitoring" } });
    prometheus["namespaceSelector"] = monitoring;
    let expected = [
        (json!([pods(APP, "oarlock")]), vec!["peers", "api"]),
        (json!([pods("oarlock-client", "true")]), vec!["api"]),
        (json!([prometheus]), vec!["api"]),
    ];
    assert_eq!(rules, expected);
}
