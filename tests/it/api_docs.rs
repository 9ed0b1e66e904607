//! The pages of `docs/api`, run as they stand: each `sh` block against a cluster of its own page,
//! with the status and the condition that its comment names.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::cluster::Cluster;

const DIR: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/api");

/// One `sh` block: what is run, and what its comments expect.
#[derive(Default)]
struct Block {
    script: String,
    status: String,
    condition: String,
    /// Variables that the answer fills.
    saves: Vec<(String, String)>,
}

fn pages() -> Vec<(String, String)> {
    let mut pages: Vec<(String, String)> = fs::read_dir(DIR)
        .expect("docs/api")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "md"))
        .map(|path| (path.display().to_string(), fs::read_to_string(&path).expect("a page")))
        .collect();
    // After the page about tokens the cluster asks everybody for one.
    pages.sort_by_key(|(path, _)| (path.ends_with("tokens.md"), path.clone()));
    pages
}

fn blocks(page: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut open: Option<Block> = None;
    for line in page.lines() {
        match (&mut open, line) {
            (None, "```sh") => open = Some(Block::default()),
            (None, _) => {}
            (Some(_), "```") => blocks.extend(open.take()),
            (Some(block), line) => match line.strip_prefix("# ") {
                None => block.script.extend([line, "\n"]),
                Some(comment) => expect(block, comment),
            },
        }
    }
    blocks
}

fn expect(block: &mut Block, comment: &str) {
    if comment.starts_with(|first: char| first.is_ascii_digit()) {
        let (status, condition) = comment.split_once(' ').unwrap_or((comment, ""));
        (block.status, block.condition) = (status.to_owned(), condition.to_owned());
    } else if let Some((variable, path)) = comment.split_once(" = ") {
        block.saves.push((variable.to_owned(), path.to_owned()));
    }
}

/// The output of `jq` if the expression is neither false nor null.
fn jq(expression: &str, body: &str, variables: &BTreeMap<String, String>) -> Option<String> {
    let mut jq = Command::new("jq");
    jq.args(["-e", "-r", expression]).envs(variables);
    let mut jq = jq.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("jq is there");
    let mut stdin = jq.stdin.take().expect("its input");
    stdin.write_all(body.as_bytes()).expect("jq reads all of it");
    drop(stdin);
    let output = jq.wait_with_output().expect("jq ends");
    let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    output.status.success().then_some(text)
}

fn run(page: &str, block: &Block, variables: &mut BTreeMap<String, String>) {
    let script = format!(
        "curl() {{ command curl -sS --max-time 20 -w '\\n%{{http_code}}' \"$@\"; }}\n{}",
        block.script
    );
    let mut bash = Command::new("bash");
    let output = bash.args(["-c", &script]).envs(&*variables).stdin(Stdio::null()).output();
    let output = output.expect("bash is there");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let (body, status) = text.rsplit_once('\n').unwrap_or(("", &text));
    let what = format!("{page}\n{}\nanswered {status}: {body}", block.script);
    assert_eq!(status, block.status, "{what}");
    if let Some(wanted) = block.condition.strip_prefix("text: ") {
        assert!(body.contains(wanted), "{wanted}\n{what}");
    } else if !block.condition.is_empty() {
        assert!(jq(&block.condition, body, variables).is_some(), "{}\n{what}", block.condition);
    }
    for (variable, path) in &block.saves {
        let value = jq(path, body, variables).unwrap_or_else(|| panic!("{path}\n{what}"));
        variables.insert(variable.clone(), value);
    }
}

#[test]
fn every_line_of_the_api_pages_does_what_its_comment_says() {
    let cluster = Cluster::start();
    let mut ran = 0;
    for (page, text) in pages() {
        let node = format!("http://{}", cluster.api(ran % 3 + 1));
        let mut variables = BTreeMap::from([("NODE".to_owned(), node)]);
        for block in blocks(&text) {
            run(&page, &block, &mut variables);
            ran += 1;
        }
    }
    assert!(ran > 40, "only {ran} lines were found");
}

#[test]
fn every_described_call_has_a_section_with_a_line_to_try() {
    let described = fs::read_to_string(format!("{DIR}/openapi.json")).expect("the description");
    let described: Value = serde_json::from_str(&described).expect("JSON");
    let all: String = pages().into_iter().map(|(_, text)| text).collect();
    let paths = described["paths"].as_object().expect("paths");
    for (path, methods) in paths {
        for method in methods.as_object().expect("methods").keys() {
            let heading = format!("\n## {} {path}\n", method.to_uppercase());
            let section = all.split_once(&heading).map(|(_, rest)| rest);
            let section = section.unwrap_or_else(|| panic!("no page has {}", heading.trim()));
            let section = section.split("\n## ").next().unwrap_or_default();
            assert!(section.contains("```sh\ncurl"), "{} has no line to try", heading.trim());
        }
    }
    let kinds = described["components"]["schemas"]["Problem"]["properties"]["type"]["enum"].clone();
    for kind in kinds.as_array().expect("kinds") {
        let row = format!("| `{}` |", kind.as_str().unwrap_or_default());
        assert!(all.contains(&row), "errors.md has no row for {kind}");
    }
}
