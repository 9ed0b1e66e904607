//! Three containers as docker-compose.yml starts them, made of the runtime stage of
//! `cluster/Dockerfile` and the program of this test run. No image is pulled: where the real builder
//! stage leaves a static program, this one leaves the program and the libraries it names.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use crate::cluster::{eventually, free_ports};
use crate::http::{Answer, ask};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
const RUNTIME_STAGE: &str = "FROM scratch\n";

/// A command of docker that hangs fails the test instead of hanging it.
const COMMAND_S: &str = "300";

/// Runs to the end; shows what was said where it fails.
fn told(command: &mut Command) -> String {
    let output = run(command);
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{command:?}: {}\n{out}{err}", output.status);
    out
}

fn run(command: &mut Command) -> Output {
    command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn docker() -> Command {
    let mut command = Command::new("timeout");
    command.args([COMMAND_S, "docker"]);
    command
}

fn insist_on_docker() {
    let output = run(docker().args(["info", "--format", "{{.ServerVersion}}"]));
    assert!(
        output.status.success(),
        "this test needs a Docker daemon that it may use, and none answers: start one, or leave the \
         test out with `--skip containers`\n{}",
        text(&output.stderr)
    );
}

/// The plugin of docker where there is one, else the program of its own.
fn compose() -> Command {
    let plugin = run(docker().args(["compose", "version"])).status.success();
    let mut command = Command::new("timeout");
    command.arg(COMMAND_S);
    if plugin {
        command.args(["docker", "compose"])
    } else {
        command.arg("docker-compose")
    };
    command.current_dir(ROOT);
    command
}

/// What cluster/Dockerfile says from its last `FROM` on.
fn runtime_stage() -> String {
    let text = fs::read_to_string(Path::new(ROOT).join("cluster/Dockerfile")).expect("it is there");
    let (_, stage) = text.rsplit_once(RUNTIME_STAGE).expect("a runtime stage from scratch");
    format!("{RUNTIME_STAGE}{stage}")
}

/// The program, and its loader and libraries at the places at which it looks for them.
fn fill(image: &Path, program: &Path) {
    let put = |from: &Path, to: &Path| {
        let to = image.join(to.strip_prefix("/").expect("an absolute path"));
        fs::create_dir_all(to.parent().expect("inside the image")).expect("a folder");
        fs::copy(from, to).unwrap_or_else(|error| panic!("copy {}: {error}", from.display()));
    };
    put(program, Path::new("/usr/bin/oarlock"));
    let listing = told(Command::new("ldd").arg(program));
    let paths = listing.split_whitespace().filter(|word| word.starts_with('/'));
    let libraries: Vec<PathBuf> = paths.map(PathBuf::from).collect();
    assert!(!libraries.is_empty(), "{listing}");
    for library in &libraries {
        put(library, library);
    }
}

struct Containers {
    project: String,
    image: String,
    ports: Vec<u16>,
    context: tempfile::TempDir,
}

impl Containers {
    fn start() -> Self {
        insist_on_docker();
        let project = format!("oarlock-it-{}", std::process::id());
        let context = tempfile::tempdir().expect("a temporary directory");
        fill(&context.path().join("image"), Path::new(env!("CARGO_BIN_EXE_oarlock")));
        fs::create_dir_all(context.path().join("data/oarlock")).expect("a folder");
        let label = format!("LABEL test={project}\n");
        let builder = format!("FROM scratch AS builder\n{label}COPY . /\n");
        // The variable lets a build with faults inside serve, too.
        let last = format!("{label}ENV OARLOCK_PROOF=1\n");
        let file = format!("{builder}{}{last}", runtime_stage());
        fs::write(context.path().join("Dockerfile"), file).expect("written");
        let it = Self { image: format!("{project}:test"), project, ports: free_ports(3), context };
        told(docker().args(["build", "--tag", &it.image]).arg(it.context.path()));
        it.up();
        it
    }

    fn compose(&self) -> Command {
        let mut command = compose();
        command.args(["--project-name", &self.project]).env("OARLOCK_IMAGE", &self.image);
        for (port, id) in self.ports.iter().zip(1..) {
            command.env(format!("OARLOCK_PORT_{id}"), port.to_string());
        }
        command
    }

    fn up(&self) {
        told(self.compose().args(["up", "--detach", "--no-build"]));
        (1..=3).for_each(|id| self.wait_healthy(id));
    }

    /// The id of the container of a node.
    fn container(&self, id: u64) -> String {
        let listed = told(docker().args(["ps", "--all", "--quiet"]).args([
            "--filter",
            &format!("label=com.docker.compose.project={}", self.project),
            "--filter",
            &format!("label=com.docker.compose.service=node{id}"),
        ]));
        listed.trim().to_owned()
    }

    fn inspect(&self, id: u64, format: &str) -> String {
        let container = self.container(id);
        told(docker().args(["inspect", "--format", format, &container])).trim().to_owned()
    }

    /// By the health check of the image.
    fn wait_healthy(&self, id: u64) {
        eventually(&format!("node {id} is healthy"), || {
            (self.inspect(id, "{{.State.Health.Status}}") == "healthy").then_some(())
        });
    }

    fn ask(&self, id: u64, method: &str, path: &str, body: &str) -> std::io::Result<Answer> {
        let address = format!("127.0.0.1:{}", self.ports[id as usize - 1]);
        ask(&address, method, path, body, Duration::from_secs(30))
    }

    /// Asks these nodes until one answers with something else than 503 or 504.
    fn insist(&self, ids: &[u64], method: &str, path: &str, body: &str) -> Answer {
        let mut turn = 0;
        eventually(&format!("{method} {path}"), || {
            turn += 1;
            let answer = self.ask(ids[turn % ids.len()], method, path, body).ok()?;
            (answer.status != 503 && answer.status != 504).then_some(answer)
        })
    }

    /// Takes a lock for long; its token.
    fn acquire(&self, ids: &[u64], name: &str) -> Answer {
        let body = format!(
            r#"{{"owner":"test","ttl_ms":3600000,"request_id":"00000000-0000-4000-8000-{:012x}"}}"#,
            name.bytes().fold(7_u64, |sum, byte| (sum * 31 + u64::from(byte)) % (1 << 48))
        );
        let answer = self.insist(ids, "POST", &format!("/v1/locks/{name}"), &body);
        assert_eq!(answer.status, 200, "{answer:?}");
        answer
    }

    fn leader(&self, ids: &[u64]) -> u64 {
        eventually("somebody leads", || {
            let cluster = ids.iter().find_map(|id| self.ask(*id, "GET", "/v1/cluster", "").ok())?;
            cluster.body["leader_id"].as_u64().filter(|leader| ids.contains(leader))
        })
    }

    /// A command inside the container of a node, with the program that it runs.
    fn inside(&self, id: u64, arguments: &[&str]) -> Output {
        run(docker().args(["exec", &self.container(id), "/usr/bin/oarlock"]).args(arguments))
    }
}

impl Drop for Containers {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let logs = run(self.compose().args(["logs", "--no-color", "--tail", "25"]));
            eprintln!("{}", text(&logs.stdout));
        }
        // Only what carries the name of this project.
        let _gone = run(self.compose().args(["down", "--volumes", "--timeout", "5"]));
        let _gone = run(docker().args(["image", "rm", "--force", &self.image]));
        let label = format!("label=test={}", self.project);
        let _gone = run(docker().args(["image", "prune", "--force", "--filter", &label]));
    }
}

fn others(except: u64) -> Vec<u64> {
    (1..=3).filter(|id| *id != except).collect()
}

#[test]
fn three_containers_go_on_while_one_is_stopped_and_while_one_is_cut_off() {
    let cluster = Containers::start();
    let all = [1, 2, 3];
    let mut leases = vec![("before", cluster.acquire(&all, "before"))];
    assert_eq!(cluster.inspect(1, "{{.Config.User}}"), "65532:65532");
    assert_eq!(cluster.inspect(1, "{{index .Config.Healthcheck.Test 0}}"), "CMD", "exec form");

    // The leader is stopped, in the way of compose: it hands over and ends by itself.
    let stopped = cluster.leader(&all);
    told(cluster.compose().args(["stop", &format!("node{stopped}")]));
    assert_eq!(cluster.inspect(stopped, "{{.State.ExitCode}}"), "0", "it ended by itself");
    leases.push(("stopped", cluster.acquire(&others(stopped), "stopped")));
    told(cluster.compose().args(["start", &format!("node{stopped}")]));
    cluster.wait_healthy(stopped);

    // The leader loses its network and runs on.
    let cut = cluster.leader(&all);
    let (network, container) = (format!("{}_locks", cluster.project), cluster.container(cut));
    told(docker().args(["network", "disconnect", &network, &container]));
    leases.push(("cut", cluster.acquire(&others(cut), "cut")));
    let alone = cluster.inside(cut, &["acquire", "alone", "--ttl", "1m", "--timeout", "3s"]);
    assert!(matches!(alone.status.code(), Some(3 | 4)), "it grants nothing by itself: {alone:?}");
    let alias = format!("node{cut}");
    told(docker().args(["network", "connect", "--alias", &alias, &network, &container]));
    cluster.wait_healthy(cut);
    leases.push(("healed", cluster.acquire(&all, "healed")));

    // All containers go; the volumes stay.
    told(cluster.compose().args(["down", "--timeout", "20"]));
    cluster.up();
    leases.push(("again", cluster.acquire(&all, "again")));

    let tokens: Vec<u64> = leases.iter().map(|(_, lease)| lease.number("token")).collect();
    assert!(tokens.is_sorted_by(|a, b| a < b), "tokens only grow: {tokens:?}");
    for (name, lease) in &leases {
        for id in all {
            let lock = cluster.insist(&[id], "GET", &format!("/v1/locks/{name}"), "");
            let holder = &lock.body["holders"][0];
            assert_eq!(holder["token"], lease.body["token"], "{name} at node {id}: {lock:?}");
        }
        let renew = format!("/v1/leases/{}/renew", lease.text("lease_id"));
        assert_eq!(cluster.insist(&all, "POST", &renew, "").status, 200, "{name}");
    }
}

#[test]
fn compose_accepts_its_file_with_and_without_metrics() {
    for profile in [&[][..], &["--profile", "metrics"]] {
        let shown = told(compose().args(profile).arg("config"));
        for part in ["node1:", "node2:", "node3:", "locks:"] {
            assert!(shown.contains(part), "{part} is missing:\n{shown}");
        }
        assert!(shown.contains("127.0.0.1"), "ports are shown to this machine only:\n{shown}");
    }
    // The ports at which the command line looks by itself.
    let text = fs::read_to_string(Path::new(ROOT).join("docker-compose.yml")).expect("it is there");
    for port in [7400, 7410, 7420] {
        assert!(text.contains(&format!(":-{port}}}:7400")), "{port}");
    }
}
