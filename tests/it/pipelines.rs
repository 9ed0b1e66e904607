//! The scripts of `docs/pipelines`, run as they are documented.

use std::fs;
use std::process::{Command, Stdio};

use crate::cluster::{Cluster, eventually};

#[test]
fn a_second_pipeline_waits_its_turn_and_a_failed_one_releases() {
    let has = |tool: &str| Command::new(tool).arg("--version").output().is_ok();
    assert!(
        has("jq") && has("curl"),
        "the pipeline scripts need curl and jq: apt-get install curl jq"
    );
    let cluster = Cluster::start();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/pipelines/deploy.sh");
    let record = cluster.dir.path().join("record");
    let go = cluster.dir.path().join("go");
    let deploy = |node: u64, command: String| {
        let mut deploy = Command::new("bash");
        deploy.args([script, "deploy/prod", "bash", "-c", &command]);
        deploy.env("OARLOCK_URL", format!("http://{}", cluster.api(node))).stdin(Stdio::null());
        deploy
    };
    let note = |what: &str| format!("echo {what} $OARLOCK_TOKEN >> {}", record.display());
    let wait_for_go = format!("until [ -e {} ]; do sleep 0.05; done", go.display());
    let first = format!("{}; {wait_for_go}; {}; exit 3", note("first-begins"), note("first-ends"));
    let mut first = deploy(1, first).spawn().expect("it starts");
    eventually("the first deploys", || {
        fs::read_to_string(&record).ok().filter(|text| !text.is_empty())
    });
    let mut second = deploy(2, note("second")).spawn().expect("it starts");
    eventually("the second waits", || {
        (cluster.get(1, "/v1/locks/deploy/prod").ok()?.number("queue_length") == 1).then_some(())
    });
    fs::write(&go, "").expect("go");
    assert_eq!(first.wait().expect("it ends").code(), Some(3), "the command's own exit code");
    assert!(second.wait().expect("it ends").success());
    let text = fs::read_to_string(&record).expect("a record");
    assert_eq!(text, "first-begins 1\nfirst-ends 1\nsecond 2\n");
}
